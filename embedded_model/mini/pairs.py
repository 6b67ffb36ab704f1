"""Everything that the embedded model is taught, as one table of groups of tasks."""

from collections.abc import Mapping
from types import MappingProxyType

from embedded_model.mini.batch import Group, Mixed, Pairs, joined
from embedded_model.mini.geometry import GEOMETRY
from embedded_model.mini.mask_groups import InMask, Repairs
from embedded_model.mini.object_groups import ColourTransfers, Insertions, Objects
from embedded_model.mini.picture_groups import Double, Nothing, Single
from embedded_model.mini.styles import STYLES
from embedded_model.mini.tones import TONES
from embedded_model.mini.weather import WEATHER

GROUPS: Mapping[str, Group] = MappingProxyType(
    {
        "tones": Single(0.05, tuple(TONES)),
        "combinations": Double(0.08),
        "styles": Single(0.1, tuple(STYLES)),
        "weather": Single(0.04, tuple(WEATHER)),
        "geometry": Single(0.08, tuple(GEOMETRY)),
        "objects": Objects(0.4),
        "repairs": Repairs(0.08),
        "masked": InMask(0.02, (*TONES, *STYLES, *WEATHER)),
        "two_images": Mixed(0.12, (Insertions(0.6), ColourTransfers(0.4))),
        "identity": Nothing(0.03),
    }
)

__all__ = ["GROUPS", "Group", "Mixed", "Pairs", "joined"]
