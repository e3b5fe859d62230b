"""Units at the edges: text with a unit in, SI floats inside, readable text out.

`GB` is 1e9 bytes and `GiB` 2**30; bits are refused, and so are bare numbers where a file is read. Knows nothing of
what the quantities are used for.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from typing import Annotated, Any

from pydantic import GetCoreSchemaHandler, GetJsonSchemaHandler, ValidationInfo
from pydantic_core import core_schema

__all__ = [
    "Bandwidth",
    "ComputeRate",
    "Duration",
    "EnergyPerByte",
    "Money",
    "MoneyPerByte",
    "Power",
    "Rate",
    "Share",
    "Size",
    "format_bytes",
    "format_count",
    "format_exact",
    "format_limit",
    "format_number",
    "format_rate",
    "format_seconds",
    "format_share",
    "format_sum",
    "parse",
    "split",
]

_DECIMAL = {"": 0, "k": 3, "K": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_BINARY = {"Ki": 10, "Mi": 20, "Gi": 30, "Ti": 40, "Pi": 50}
_SMALL = {"": 0, "m": -3, "u": -6, "µ": -6, "μ": -6, "n": -9, "p": -12}
_NUMBER = re.compile(r"\s*([-+]?(?:\d[\d_]*\.?\d*|\.\d+)(?:[eE][-+]?\d+)?)\s*(.*?)\s*\Z")

# unit text -> power of ten, or a factor as a float; one table per kind of quantity
Table = dict[str, "int | float"]


def _bytes(suffix: str = "") -> Table:
    table: Table = {f"{prefix}B{suffix}": power for prefix, power in _DECIMAL.items() if prefix != "K"}
    table.update({f"{prefix}B{suffix}": float(2**power) for prefix, power in _BINARY.items()})
    return table


def _decimal(unit: str) -> Table:
    return {f"{prefix}{unit}": power for prefix, power in _DECIMAL.items() if prefix != "K"}


_TABLES: dict[str, tuple[Table, str]] = {
    "size": (_bytes(), "48 GB"),
    "bandwidth": (_bytes("/s"), "64 GB/s"),
    "duration": ({**{f"{p}s": n for p, n in _SMALL.items()}, "min": 60.0, "h": 3600.0}, "100 ns"),
    "compute rate": ({**_decimal("FLOPS"), **_decimal("FLOP/s"), **_decimal("OPS")}, "20 TFLOPS"),
    "power": ({"W": 0, "mW": -3, "kW": 3}, "300 W"),
    "energy per byte": ({"pJ/B": -12, "nJ/B": -9, "J/B": 0}, "48 pJ/B"),
    "money": ({"USD": 0, "kUSD": 3}, "1600 USD"),
    "money per byte": ({"USD/GB": -9, "USD/TB": -12, "USD/GiB": 1.0 / 2**30}, "5 USD/GB"),
    "share": ({"%": -2, "": 0}, "75 %"),
    "rate": ({"/s": 0, "/min": 1.0 / 60, "/h": 1.0 / 3600}, "2/s"),
}
_BITS = re.compile(r"(?:[kKMGTP]i?)?(?:b|bit|bits)(?:/s|ps)?\Z|[kKMGT]bps\Z")


def split(value: Any) -> tuple[float, str] | None:
    """Number and unit of a quantity as it was written (`"24.8 GB/s"`, `0.84`); None for other values."""
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        return (float(value), "") if math.isfinite(value) else None
    match = _NUMBER.match(value) if isinstance(value, str) else None
    return None if match is None else (float(match.group(1).replace("_", "")), match.group(2))


def parse(text: str, quantity: str) -> float:
    """The SI value of `text` read as a `quantity` (`'size'`, `'bandwidth'`, `'duration'`, ...).

    Raises ValueError saying what would be right. The float is built from the decimal text and the exponent, so that
    `100 ns` is exactly `float("100e-9")`.
    """
    table, example = _TABLES[quantity]
    match = _NUMBER.match(text)
    if match is None:
        raise ValueError(f"'{text}' is not {_a(quantity)}; write a number and a unit, such as '{example}'")
    number, unit = match.group(1).replace("_", ""), match.group(2)
    if unit not in table:
        raise ValueError(_wrong_unit(text, unit, quantity, table, example))
    factor = table[unit]
    if isinstance(factor, float):
        value = float(number) * factor
    else:
        mantissa, _, exponent = number.lower().partition("e")
        value = float(f"{mantissa}e{int(exponent or 0) + factor}")
    if not math.isfinite(value):
        raise ValueError(f"'{text}' is too large for {_a(quantity)}")
    return value


def _a(quantity: str) -> str:
    return f"{'an' if quantity[0] in 'aeiou' else 'a'} {quantity}"


def _wrong_unit(text: str, unit: str, quantity: str, table: Table, example: str) -> str:
    if not unit:
        return f"'{text}' has no unit; {_a(quantity)} is written like '{example}'"
    if _BITS.match(unit):
        return f"'{text}' is in bits; moesim takes bytes only: divide by 8 and write it like '{example}'"
    right = next((known for known in table if known and known.lower() == unit.lower()), None)
    hint = f" Did you mean '{right}'?" if right else f" Write it like '{example}'."
    return f"'{unit}' is not a unit of {quantity} (in '{text}').{hint}"


def _validator(quantity: str, minimum: float, exclusive: bool) -> Callable[[Any, ValidationInfo], float]:
    example = _TABLES[quantity][1]

    def validate(value: Any, info: ValidationInfo) -> float:
        if isinstance(value, str):
            number = parse(value, quantity)
        elif isinstance(value, (int, float)) and not isinstance(value, bool):
            from_file = bool(info.context and info.context.get("units") == "required")
            if from_file and quantity != "share":
                raise ValueError(f"bare number {value}; {_a(quantity)} needs its unit, such as '{example}'")
            number = float(value)
        else:
            raise ValueError(f"{value!r} is not {_a(quantity)}; write it like '{example}'")
        if number < minimum or (exclusive and number == minimum):
            raise ValueError(
                f"{value!r} is out of range; {_a(quantity)} must be {'above' if exclusive else 'at least'} {minimum:g}"
            )
        if quantity == "share" and number > 1:
            raise ValueError(f"{value!r} is out of range; a share lies between 0 and 1 (or 0 % and 100 %)")
        return number

    return validate


def _writer(quantity: str) -> Callable[[float], Any]:
    """How JSON gets a value that a file may hold as well: with its unit, exactly, wherever a unit of 1 is known."""
    unit = next((known for known, power in _TABLES[quantity][0].items() if known and power == 0), None)
    return lambda value: value if unit is None else f"{value!r} {unit}"


class _Quantity:
    """What pydantic does with a field. Handed to it ready-made: it would look at the signatures of a `BeforeValidator` and a
    `PlainSerializer` anew in each of the hundred fields that have a unit."""

    def __init__(
        self, validator: Callable[[Any, ValidationInfo], float], writer: Callable[[float], Any], json_schema: dict[str, Any]
    ) -> None:
        self.validator, self.writer, self.json_schema = validator, writer, json_schema

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> core_schema.CoreSchema:
        written = core_schema.plain_serializer_function_ser_schema(self.writer, when_used="json-unless-none")
        return core_schema.with_info_before_validator_function(self.validator, handler(source), serialization=written)

    def __get_pydantic_json_schema__(self, _schema: Any, _handler: GetJsonSchemaHandler) -> dict[str, Any]:
        return dict(self.json_schema)


def _quantity(quantity: str, *, minimum: float = 0.0, exclusive: bool = False) -> _Quantity:
    table, example = _TABLES[quantity]
    units = "|".join(sorted((re.escape(unit) for unit in table if unit), key=len, reverse=True))
    optional = "?" if "" in table else ""
    text = {
        "type": "string",
        "pattern": rf"^\s*[-+]?[0-9._]+([eE][-+]?[0-9]+)?\s*({units}){optional}\s*$",
        "examples": [example],
    }
    schema = {"anyOf": [text, {"type": "number"}]} if quantity == "share" else text
    return _Quantity(_validator(quantity, minimum, exclusive), _writer(quantity), schema)


Size = Annotated[float, _quantity("size", exclusive=True)]
"""Bytes, above zero."""
Bandwidth = Annotated[float, _quantity("bandwidth", exclusive=True)]
"""Bytes per second, above zero."""
Duration = Annotated[float, _quantity("duration")]
"""Seconds, zero allowed."""
ComputeRate = Annotated[float, _quantity("compute rate", exclusive=True)]
"""Floating-point (or integer) operations per second."""
Power = Annotated[float, _quantity("power")]
"""Watts."""
EnergyPerByte = Annotated[float, _quantity("energy per byte")]
"""Joules per byte moved."""
Money = Annotated[float, _quantity("money")]
"""US dollars."""
MoneyPerByte = Annotated[float, _quantity("money per byte")]
"""US dollars per byte."""
Rate = Annotated[float, _quantity("rate", exclusive=True)]
"""Events per second, above zero."""
Share = Annotated[float, _quantity("share")]
"""A share between 0 and 1; `75 %` and `0.75` are the same."""


def _scaled(value: float, unit: str, base: float = 1000.0) -> str:
    if value == 0 or not math.isfinite(value):
        return f"{value:g} {unit}"
    prefixes = ["", "k", "M", "G", "T", "P"]
    index = min(max(int(math.log(abs(value), base) + 1e-9), 0), len(prefixes) - 1)
    return f"{value / base**index:.3g} {prefixes[index]}{unit}"


def format_bytes(value: float) -> str:
    """`94.4 MB`: decimal prefixes, three digits."""
    return _scaled(value, "B")


def format_count(count: int, noun: str) -> str:
    """`1 expert`, `1,536 experts`."""
    return f"{count:,} {noun}{'' if count == 1 else 's'}"


def format_number(value: float | None, digits: int = 3, *, zeros: bool = False) -> str:
    """`1,024`, `22.9`, `0.031`: whole numbers in full, others with `digits` digits; `-` for what is not known.

    `zeros` keeps those at the end (`6.50`), for columns of measured values; counts are of type int.
    """
    if value is None or math.isnan(value):
        return "-"
    if math.isinf(value):
        return f"{value:g}"
    whole = value == 0 or (isinstance(value, int) if zeros else float(value).is_integer())
    if whole or abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}"
    return f"{value:#,.{digits}g}".rstrip(".") if zeros else f"{value:,.{digits}g}"


def format_share(share: float | None, digits: int = 1, *, sign: str = "", trim: bool = False) -> str:
    """A share of 0 to 1 in percent: `93.9 %`, `< 0.1 %` for what would look like nothing; `-` for what is not known.

    `sign` is `+` for differences, which show theirs; `trim` leaves out zeros at the end.
    """
    if share is None or math.isnan(share):
        return "-"
    least = 10**-digits
    if not sign and 0 < 100 * share < least / 2:
        return f"< {least:g} %"
    return f"{round(100 * share, digits) + 0.0:{sign}{'g' if trim else f'.{digits}f'}} %"


def format_limit(value: float) -> str:
    """A bound of a key: whole numbers in all their digits, as files write them."""
    return str(value) if isinstance(value, int) else f"{value:g}"


def format_exact(value: float) -> str:
    """`94,371,840 B`: to the byte."""
    return f"{round(value):,} B"


def format_sum(shares: Mapping[str, float]) -> str:
    """`1,500 B (weights 1,000 B + KV cache 700 B - moved 200 B)`: shares to the byte, which add up to the sum before."""
    parts = [(name, round(value)) for name, value in shares.items() if round(value)]
    signs = [" - " if nbytes < 0 else " + " for _, nbytes in parts]
    text = "".join(f"{sign}{name} {abs(nbytes):,} B" for sign, (name, nbytes) in zip(signs, parts, strict=True))
    total = f"{sum(nbytes for _, nbytes in parts):,} B"
    return f"{total} ({text[3:] if text.startswith(' + ') else text[1:]})" if parts else total


def format_rate(value: float, unit: str = "B/s") -> str:
    """`64 GB/s` or, with another unit, `21.5 TFLOP/s`."""
    return _scaled(value, unit)


def format_seconds(value: float | None) -> str:
    """`812 ms`, `6.25 ms`, `100 ns`: three digits in the largest unit that leaves at least 1; `-` for what is not known."""
    if value is None:
        return "-"
    for factor, unit in ((1.0, "s"), (1e-3, "ms"), (1e-6, "us"), (1e-9, "ns")):
        if abs(value) >= factor * 0.9995:
            return f"{value / factor:.3g} {unit}"
    return "0 s" if value == 0 else f"{value / 1e-12:.3g} ps"
