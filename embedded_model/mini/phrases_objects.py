"""The vocabulary of drawn objects, of holes to fill and of second pictures.

`{object}` is an object that is there ("the red star"), `{new}` one to come ("a blue ring"), `{at}` and `{to}` places,
`{colour}` a colour, `{region}` a damaged part; `{first}` and `{second}` are two pictures. Held-out phrases are never
trained.
"""

SHAPE_NOUNS: dict[str, tuple[str, ...]] = {
    "circle": ("circle", "circle", "disc", "dot"),
    "square": ("square", "square", "box"),
    "triangle": ("triangle",),
    "star": ("star",),
    "heart": ("heart",),
    "diamond": ("diamond", "diamond", "rhombus"),
    "cross": ("cross", "cross", "plus sign"),
    "ring": ("ring", "ring", "hoop"),
}
ANY_SHAPE = ("shape", "object", "figure", "thing")
HELD_OUT_SHAPE_NOUNS = ("{shape} shape", "{shape} figure")
COLOUR_WORDS: dict[str, tuple[str, ...]] = {
    "red": ("red", "red", "red", "crimson", "scarlet"),
    "orange": ("orange", "orange", "orange", "amber"),
    "yellow": ("yellow", "yellow", "yellow", "lemon"),
    "green": ("green", "green", "green", "emerald"),
    "cyan": ("cyan", "cyan", "turquoise", "teal", "light blue"),
    "blue": ("blue", "blue", "blue", "navy"),
    "purple": ("purple", "purple", "purple", "violet"),
    "pink": ("pink", "pink", "pink", "rose"),
    "brown": ("brown", "brown", "brown", "chocolate"),
    "black": ("black", "black", "black", "jet black"),
    "white": ("white", "white", "white", "snow white"),
    "grey": ("grey", "gray", "grey", "gray"),
}
COLOURED = ("{colour}", "{colour}", "{colour}", "{colour}-coloured")
HELD_OUT_COLOURED = "{colour} coloured"
SIZE_WORDS: dict[str, tuple[str, ...]] = {
    "small": ("small", "small", "little", "tiny"),
    "big": ("big", "large", "big"),
}

# Places as nouns, with the words that lead there: "in the top left corner", "to the top left corner".
PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "top left": (
        "the top left",
        "the top left corner",
        "the upper left",
        "the upper left corner",
        "the top-left corner",
    ),
    "top": ("the top", "the top centre", "the middle of the top edge", "the top edge"),
    "top right": (
        "the top right",
        "the top right corner",
        "the upper right",
        "the upper right corner",
        "the top-right corner",
    ),
    "left": ("the left", "the left side", "the left edge", "the middle of the left side"),
    "centre": ("the centre", "the center", "the middle", "the middle of the {picture}", "the centre of the {picture}"),
    "right": ("the right", "the right side", "the right edge", "the middle of the right side"),
    "bottom left": (
        "the bottom left",
        "the bottom left corner",
        "the lower left",
        "the lower left corner",
        "the bottom-left corner",
    ),
    "bottom": ("the bottom", "the bottom centre", "the middle of the bottom edge", "the bottom edge"),
    "bottom right": (
        "the bottom right",
        "the bottom right corner",
        "the lower right",
        "the lower right corner",
        "the bottom-right corner",
    ),
}
HELD_OUT_PLACE_NOUNS: dict[str, tuple[str, ...]] = {
    "top left": ("the corner at the top left", "the top left part"),
    "top": ("the top part", "the centre of the top edge"),
    "top right": ("the corner at the top right", "the top right part"),
    "left": ("the left part", "the centre of the left edge"),
    "centre": ("the centre part", "the middle part"),
    "right": ("the right part", "the centre of the right edge"),
    "bottom left": ("the corner at the bottom left", "the bottom left part"),
    "bottom": ("the bottom part", "the centre of the bottom edge"),
    "bottom right": ("the corner at the bottom right", "the bottom right part"),
}
AT: dict[str, tuple[str, ...]] = {  # where the place is a corner, an edge, the middle
    "corner": ("in {place}", "at {place}"),
    "edge": ("at {place}", "on {place}"),
    "middle": ("in {place}", "at {place}"),
}
TO = ("to {place}", "to {place}", "over to {place}")

OBJECT_COMMANDS: dict[str, tuple[str, ...]] = {
    "add": (
        "add {new} {at}",
        "add {new} {at}",
        "put {new} {at}",
        "draw {new} {at}",
        "place {new} {at}",
        "insert {new} {at}",
        "paint {new} {at}",
        "make {new} {at}",
        "add {at} {new}",
        "put in {new} {at}",
        "i need {new} {at}",
        "create {new} {at}",
    ),
    "remove": (
        "remove {object}",
        "remove {object}",
        "delete {object}",
        "erase {object}",
        "get rid of {object}",
        "take {object} away",
        "take away {object}",
        "take out {object}",
        "wipe {object} out",
        "make {object} disappear",
        "make {object} go away",
        "cut out {object}",
        "clean away {object}",
        "remove {object} from the {picture}",
        "show the {picture} without {object}",
    ),
    "recolour": (
        "make {object} {colour}",
        "make {object} {colour}",
        "turn {object} {colour}",
        "paint {object} {colour}",
        "colour {object} {colour}",
        "color {object} {colour}",
        "recolour {object} to {colour}",
        "recolor {object} in {colour}",
        "change {object} to {colour}",
        "change the colour of {object} to {colour}",
        "change the color of {object} to {colour}",
        "set the colour of {object} to {colour}",
        "use {colour} for {object}",
        "{object} should be {colour}",
        "fill {object} with {colour}",
    ),
    "move": (
        "move {object} {to}",
        "move {object} {to}",
        "shift {object} {to}",
        "bring {object} {to}",
        "slide {object} {to}",
        "drag {object} {to}",
        "push {object} {to}",
        "take {object} {to}",
        "relocate {object} {to}",
        "{object} should go {to}",
        "change the position of {object} {to}",
    ),
    "replace": (
        "replace {object} with {new}",
        "replace {object} with {new}",
        "replace {object} by {new}",
        "turn {object} into {new}",
        "change {object} into {new}",
        "change {object} to {new}",
        "swap {object} for {new}",
        "exchange {object} for {new}",
        "make {object} {new}",
        "put {new} in place of {object}",
        "{object} should become {new}",
    ),
}
HELD_OUT_OBJECT_COMMANDS: dict[str, tuple[str, ...]] = {
    "add": ("let there be {new} {at}", "show {new} {at}", "there should be {new} {at}"),
    "remove": ("clear {object} away", "{object} should not be there", "make {object} go from the {picture}"),
    "recolour": ("let {object} be {colour}", "give {object} the colour {colour}", "{colour} would suit {object}"),
    "move": ("carry {object} {to}", "let {object} go {to}", "the position of {object} should change {to}"),
    "replace": ("let {object} become {new}", "put {new} where {object} is", "transform {object} into {new}"),
}

DAMAGED: dict[str, tuple[str, ...]] = {
    "grey": (
        "the grey area",
        "the gray patch",
        "the grey part",
        "the hole",
        "the missing part",
        "the blank area",
        "the gap",
    ),
    "noise": ("the noise", "the noisy area", "the noisy part", "the damaged part", "the broken area", "the static"),
    "shape": ("the shape", "the object", "the thing in the mask", "the unwanted object", "the figure"),
}
REPAIRS: dict[str, tuple[str, ...]] = {
    "grey": (
        "fill {region}",
        "fill in {region}",
        "complete the {picture}",
        "fill {region} with what fits",
        "fill the mask",
        "fill the masked area",
        "inpaint {region}",
        "inpaint the masked area",
        "repair {region}",
        "restore {region}",
        "reconstruct {region}",
        "close {region}",
        "repair the {picture}",
        "restore the {picture}",
        "paint what is missing",
        "fill it in to match the rest",
    ),
    "noise": (
        "repair {region}",
        "fix {region}",
        "restore {region}",
        "remove {region}",
        "clean up {region}",
        "inpaint {region}",
        "inpaint the masked area",
        "reconstruct {region}",
        "replace {region} with what fits",
        "repair the {picture}",
        "restore the {picture}",
        "fix the damage",
        "fill the masked area",
        "paint over {region}",
    ),
    "shape": (
        "remove {region}",
        "erase {region}",
        "delete {region}",
        "take {region} away",
        "get rid of {region}",
        "make {region} disappear",
        "remove what is in the mask",
        "erase what is in the masked area",
        "remove {region} and fill in the background",
        "clean the {picture}",
        "fill the masked area with the background",
        "inpaint the masked area",
    ),
}
HELD_OUT_REPAIRS: dict[str, tuple[str, ...]] = {
    "grey": ("put something that fits into {region}", "make the {picture} complete", "fill up {region}"),
    "noise": ("clean {region}", "make the {picture} whole where it is damaged", "get {region} repaired"),
    "shape": ("take {region} out of the {picture}", "clear {region} away", "i do not want {region}"),
}
IN_MASK = (
    "in the masked area",
    "in the mask",
    "inside the mask",
    "only in the masked area",
    "only inside the mask",
    "in the marked area",
    "in the selected area",
    "in the selection",
    "where the mask is",
    "but only in the selected part",
)
HELD_OUT_IN_MASK = ("but only inside the selection", "within the masked part", "where it is masked")

FIRST = ("the first {picture}", "the first", "{picture} 1", "the first one", "this {picture}", "the main {picture}")
SECOND = ("the second {picture}", "the second", "{picture} 2", "the second one", "the other {picture}", "the reference")
INSERTIONS = (
    "put {object} of {second} into {first}",
    "put {object} from {second} into {first}",
    "put {object} from {second} {at}",
    "add {object} of {second} to {first}",
    "add {object} from {second} {at}",
    "copy {object} from {second} to {first}",
    "copy {object} of {second} into {first}",
    "paste {object} from {second} {at}",
    "paste {object} of {second} into {first}",
    "insert {object} of {second} into {first}",
    "insert {object} of {second} {at} of {first}",
    "place {object} from {second} {at}",
    "take {object} of {second} and put it into {first}",
    "take {object} from {second} and put it {at}",
    "combine {first} with {object} of {second}",
)
HELD_OUT_INSERTIONS = (
    "let {object} of {second} appear {at}",
    "bring {object} from {second} into {first}",
    "show {object} of {second} {at} of {first}",
)
COLOUR_TRANSFERS = (
    "use the colours of {second}",
    "use the colors of {second}",
    "use the colours from {second} in {first}",
    "take the colours of {second}",
    "take the colors from {second}",
    "apply the colours of {second}",
    "apply the colors of {second} to {first}",
    "apply the palette of {second}",
    "use the palette of {second}",
    "use the tones of {second}",
    "match the colours of {second}",
    "match the colors of {first} to {second}",
    "match the mood of {second}",
    "copy the colours of {second}",
    "transfer the colours of {second} to {first}",
    "give {first} the colours of {second}",
    "give {first} the palette of {second}",
    "recolour {first} with the colours of {second}",
    "recolor {first} like {second}",
    "grade {first} like {second}",
    "colour {first} like {second}",
    "make the colours of {first} like those of {second}",
    "{first} in the colours of {second}",
)
HELD_OUT_COLOUR_TRANSFERS = (
    "let {first} have the colours of {second}",
    "put the palette of {second} on {first}",
    "the colours should be as in {second}",
)

ALONGSIDE = (
    " and ",
    " and ",
    " and then ",
    ", then ",
    " then ",
    ", and ",
    ". ",
    ", ",
    ", and then ",
    "; then ",
    ", afterwards ",
    ", next ",
    " plus ",
    " along with ",
    ", finally ",
    "; once done, ",
    ". after this, ",
    " but also ",
)
HELD_OUT_ALONGSIDE = (", and after that ", " as well as ", ", and when that is done ")
CLAUSES = ("{phrase}", "{phrase}", "{phrase}", "also {phrase}", "please {phrase}")
ADJECTIVE_CLAUSES = ("make it {phrase}", "make {it} {phrase}", "make it look {phrase}", "{phrase}")
