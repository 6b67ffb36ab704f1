"""What the model costs on this device: seconds and bytes by key and batch size, measured at start and refined since."""

import json
import logging
from collections.abc import Hashable
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile

from serve.engine.curves import MAX_KEYS, Curves

log = logging.getLogger(__name__)

KNEE_SHARE = 0.97
"""Of the best throughput: the smallest batch that reaches it is the largest worth running, since each step of a larger
one takes longer for next to nothing."""

KNEE_REFRESH = 32
"""Steps of a key after which its knee is looked for again."""

FORMAT = 1


@dataclass(slots=True)
class Profile:
    """seconds and peak_bytes: of one denoiser step. row_bytes: that a begun row holds. encode_s, decode_s: of one row;
    encode_bytes, decode_bytes: the peak of it. Each is read at the tokens of a pass.

    max_batch: passes of one call. fixed: every call is filled up to it, so that all sizes cost the same.
    """

    max_batch: int
    fixed: bool
    seconds: Curves = field(default_factory=Curves)
    peak_bytes: Curves = field(default_factory=Curves)
    row_bytes: Curves = field(default_factory=Curves)
    encode_s: Curves = field(default_factory=Curves)
    decode_s: Curves = field(default_factory=Curves)
    encode_bytes: Curves = field(default_factory=Curves)
    decode_bytes: Curves = field(default_factory=Curves)
    _tokens: dict[Hashable, int] = field(default_factory=dict[Hashable, int])
    _knees: dict[Hashable, tuple[int, int]] = field(default_factory=dict[Hashable, tuple[int, int]])

    def know(self, key: Hashable, tokens: int) -> None:
        """Rows of this key have so many tokens in a pass."""
        self._tokens.pop(key, None)
        self._tokens[key] = tokens
        if len(self._tokens) > 2 * MAX_KEYS:
            oldest = next(iter(self._tokens))
            del self._tokens[oldest]
            self._knees.pop(oldest, None)

    def measured_keys(self) -> list[Hashable]:
        """Of which a step was measured."""
        return [key for key in self._tokens if self.seconds.at(key, self.tokens(key), 1)]

    def tokens(self, key: Hashable) -> int:
        return self._tokens.get(key, 1)

    def stepped(self, key: Hashable, passes: int, seconds: float) -> None:
        """A step with so many passes took so long."""
        self.seconds.learned(key, self.tokens(key), self._called(passes), seconds)

    def step_s(self, key: Hashable, passes: int) -> float:
        """Seconds of a step; 0 as long as nothing is known of any."""
        return self.seconds.at(key, self.tokens(key), self._called(passes)) or 0.0

    def knee(self, key: Hashable) -> int:
        """Passes beyond which a larger batch gains nothing. Filled batches cost the same, so all of one is used."""
        if self.fixed:
            return self.max_batch
        knee, fresh = self._knees.get(key, (0, 0))
        if not fresh:
            knee, fresh = self._found_knee(key), KNEE_REFRESH
        self._knees[key] = knee, fresh - 1
        return knee

    def save(self, path: Path) -> None:
        """Whole or not at all. A folder that cannot be written costs the next start its measurements, no more."""
        values = {"format": FORMAT, **{name: getattr(self, name).dump() for name in _CURVES}}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with NamedTemporaryFile("w", dir=path.parent, suffix=".tmp", delete=False, encoding="utf-8") as file:
                json.dump(values, file)
            Path(file.name).replace(path)
        except OSError as error:
            log.warning("the profile cannot be kept in %s: %s", path, error)

    def load(self, path: Path) -> bool:
        """What `save` kept. False: there is nothing that can be used."""
        try:
            values = json.loads(path.read_text(encoding="utf-8"))
            if values["format"] != FORMAT:
                return False
            loaded = {name: Curves() for name in _CURVES}
            for name, curves in loaded.items():
                curves.load(values[name])
            for name, curves in loaded.items():
                setattr(self, name, curves)
            for key, tokens in self.seconds.known():
                self.know(key, tokens)
        except FileNotFoundError:
            return False
        except (OSError, ValueError, TypeError, KeyError) as error:
            log.warning("the profile %s is not used: %r", path, error)
            return False
        return True

    def _called(self, passes: int) -> int:
        """A row wider than a batch takes several calls, as any multiple of a full one does."""
        return -(-passes // self.max_batch) * self.max_batch if self.fixed else passes

    def _found_knee(self, key: Hashable) -> int:
        tokens = self.tokens(key)
        sizes = range(1, self.max_batch + 1)
        seconds = [self.seconds.at(key, tokens, size) for size in sizes]
        rates = [size / took for size, took in zip(sizes, seconds, strict=True) if took]
        if len(rates) < self.max_batch:
            return self.max_batch
        return next(size for size, rate in zip(sizes, rates, strict=True) if rate >= KNEE_SHARE * max(rates))


_CURVES = ("seconds", "peak_bytes", "row_bytes", "encode_s", "decode_s", "encode_bytes", "decode_bytes")
