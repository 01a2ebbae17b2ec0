"""What a request for digits asks: the fields, their bounds, and which exclude each other.

Must not know of versions or of drawing.
"""

from collections.abc import Sequence

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

from app.rendering import Line
from models import seeds
from models.seed_index import SEEDS
from worker.recipes import ArchName

MAX_N = 1024
MAX_LARGE_N = 65_536
DEFAULT_N = 16
MAX_TEXT = 32  # digits of a line
SPACING = 4  # pixels
MIN_CONFIDENCE = 0.9
VALUES = ("digit", "digits", "text")  # the parameters that ask for values


class Order(BaseModel):
    """The query of ``/generate``, and the options of ``digits generate``."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    arch: ArchName
    n: int | None = Field(
        None, ge=1, le=MAX_N, description="how many digits, or lines of text; default: 16, or 1 line; not with digits"
    )
    digit: int | None = Field(None, ge=0, le=9, description="draw only this digit, n different ones")
    digits: str | None = Field(
        None,
        pattern="^[0-9](,[0-9])*$",
        description=f"draw these digits in this order, as 0,1,1,2; at most {MAX_N}",
    )
    text: str | None = Field(
        None, min_length=1, max_length=MAX_TEXT, pattern="^[0-9]+$", description="draw a line of these digits, as 31415"
    )
    spacing: int | None = Field(
        None, ge=-20, le=100, description=f"pixels between the digits of a line; default: {SPACING}; only with text"
    )
    min_confidence: float | None = Field(
        None,
        ge=0.5,
        le=0.999,
        description=f"of each digit that was asked for; default: {MIN_CONFIDENCE}; only with digit, digits or text",
    )
    seed: int | None = Field(
        None,
        ge=0,
        le=seeds.MAX_SEED,
        description="image i has seed + i; or where to begin to look for digit, digits or text, then at most "
        f"{SEEDS - 1}; default: a random seed",
    )
    version: str | None = Field(None, description="a number, or latest; default: the pinned one, else the best")
    scale: int = Field(1, ge=1, le=8, description="enlargement factor")
    columns: int | None = Field(None, ge=1, le=MAX_N, description="columns of the grid; default: near-square")

    # Fields are checked in the order above. Of those before, `info.data` has no entry if they are wrong themselves.

    @field_validator("digits")
    @classmethod
    def _count_digits(cls, digits: str, info: ValidationInfo) -> str:
        if (count := 1 + digits.count(",")) > MAX_N:
            raise PydanticCustomError("too_many", f"Input should be at most {MAX_N} digits, not {count}", {"le": MAX_N})
        if info.data.get("n") is not None:
            raise PydanticCustomError("excluded", "Leave n out: digits says how many")
        return digits

    @field_validator("text")
    @classmethod
    def _count_text(cls, text: str, info: ValidationInfo) -> str:
        n = info.data.get("n") or 1
        if len(text) * n > MAX_N:
            detail = f"n lines should have at most {MAX_N} digits together, not {n} × {len(text)}"
            raise PydanticCustomError("too_many", detail, {"le": MAX_N // n})
        return text

    @field_validator("digits", "text")
    @classmethod
    def _exclude(cls, value: str, info: ValidationInfo) -> str:
        for other in ("digit", "digits"):
            if info.data.get(other) is not None:
                raise PydanticCustomError("excluded", f"Give {other} or {info.field_name}, not both")
        return value

    @field_validator("spacing", "min_confidence")
    @classmethod
    def _require_use(cls, value: float, info: ValidationInfo) -> float:
        users = ("text",) if info.field_name == "spacing" else VALUES
        if all(info.data.get(name, "wrong") is None for name in users):
            raise PydanticCustomError("unused", f"Input has a use only with {' or '.join(users)}")
        return value

    @field_validator("seed")
    @classmethod
    def _require_room(cls, seed: int, info: ValidationInfo) -> int:
        if any(info.data.get(name) is not None for name in VALUES):
            last, why = SEEDS - 1, "the last that is looked at for digits"
        else:
            n = info.data.get("n") or DEFAULT_N
            last, why = seeds.find_last_first(n), f"so that {n} seeds fit"
        if seed > last:
            raise PydanticCustomError("seed_range", f"Input should be at most {last}, {why}", {"le": last})
        return seed

    @property
    def count(self) -> int:
        """How many digits, or lines."""
        return self.n or (1 if self.text else DEFAULT_N)

    @property
    def wanted(self) -> Sequence[int]:
        """The digits that are asked for; empty: any."""
        if self.digit is not None:
            return [self.digit] * self.count
        if self.digits:
            return [int(digit) for digit in self.digits.split(",")]
        return [int(digit) for digit in self.text or ""] * self.count

    @property
    def asked(self) -> str:
        """The field that asks for digits by value, if one does."""
        return next((name for name in VALUES if getattr(self, name) is not None), "")

    @property
    def across(self) -> int | None:
        """Columns of the grid; None: near-square."""
        return self.columns or (1 if self.text else None)

    @property
    def line(self) -> Line | None:
        """Set if several digits are one image."""
        return Line(len(self.text), SPACING if self.spacing is None else self.spacing) if self.text else None

    def describe(self) -> str:
        """What is drawn, in words."""
        if self.text:
            return f"{self.count} {'line' if self.count == 1 else 'lines'} {self.text}"
        digits = len(self.wanted) or self.count
        return f"{digits} {'digit' if digits == 1 else 'digits'}"


class LargeOrder(Order):
    """An order that need not be answered within seconds."""

    n: int | None = Field(None, ge=1, le=MAX_LARGE_N)
