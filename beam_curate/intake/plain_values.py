"""Values of Parquet as JSON has them."""

import datetime
import decimal
import json
import math
import re
import uuid
from typing import Any, Final

import pyarrow as pa

_JSON: Final = "extension<arrow.json"
_MICROSECONDS: Final = 6  # digits


def plain_row(row: pa.RecordBatch) -> dict[str, Any]:
    """The values of one row by column, with what stands as JSON in them.

    Args:
        row: A batch of one row.

    Raises:
        ValueError: A value cannot be read; TypeError and OverflowError too, as Python says of dates that it has no place for.
    """
    # pyarrow drops the nanoseconds of a time; for those of other values it wants pandas, which has texts of its own. So they are
    # counted.
    values = [_nanoseconds_counted(column).to_pylist()[0] for column in row.columns]
    return {field.name: _parsed(value, field.type) for field, value in zip(row.schema, values, strict=True)}


def plain(value: Any) -> Any:
    """A value of Parquet as JSON has it: dates, times and decimals as text, NaN and infinities as null."""
    if isinstance(value, dict):
        return {str(name): plain(inner) for name, inner in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(inner) for inner in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, (datetime.date, datetime.time, datetime.timedelta, decimal.Decimal, uuid.UUID)):
        return value.isoformat() if hasattr(value, "isoformat") else str(value)
    return value


def _parsed(value: Any, kind: pa.DataType) -> Any:
    """A value with what stands as JSON in it: `datasets` writes values without a type of their own as text of JSON.

    Args:
        value: As pyarrow gives it, nanoseconds as a number.
        kind: Its type.
    """
    if value is None:
        return None
    if _in_nanoseconds(kind):
        return _to_the_nanosecond(value, kind)
    if str(kind).startswith(_JSON):  # pa.JsonType, where pyarrow has it
        return json.loads(value)
    if pa.types.is_struct(kind):
        return {name: _parsed(inner, kind.field(name).type) for name, inner in value.items()}
    if pa.types.is_map(kind):
        return [(_parsed(name, kind.key_type), _parsed(inner, kind.item_type)) for name, inner in value]
    if isinstance(value, list) and hasattr(kind, "value_type"):
        return [_parsed(inner, kind.value_type) for inner in value]
    return value


def _in_nanoseconds(kind: pa.DataType) -> bool:
    return (pa.types.is_time64(kind) or pa.types.is_timestamp(kind) or pa.types.is_duration(kind)) and kind.unit == "ns"


def _to_the_nanosecond(count: int, kind: pa.DataType) -> Any:
    """A time, a point in time or a duration: as one to the microsecond, or where there is more to tell, a text with 9 digits."""
    coarse: Any = pa.time64("us") if pa.types.is_time64(kind) else pa.duration("us")
    if pa.types.is_timestamp(kind):
        coarse = pa.timestamp("us", kind.tz)
    value = pa.scalar(count // 1000, coarse).as_py()
    if not count % 1000:
        return value
    return _with_digits(plain(value), f"{count % 1000:03d}")


def _with_digits(text: str, digits: str) -> str:
    """A text of a time with more digits of its second, before the offset of its zone if it has one."""
    end = re.search(r"[+-]\d\d:\d\d(:\d\d(\.\d+)?)?$", text) if "T" in text else None
    time, zone = (text[: end.start()], text[end.start() :]) if end else (text, "")
    return f"{time}{'' if '.' in time else '.' + '0' * _MICROSECONDS}{digits}{zone}"


def _nanoseconds_counted(column: pa.Array) -> pa.Array:
    """Values with numbers of nanoseconds in place of times, points in time and durations that have such."""
    counted = _counted(column.type)
    return column if counted == column.type else column.cast(counted)


def _counted(kind: pa.DataType) -> pa.DataType:
    if _in_nanoseconds(kind):
        return pa.int64()
    if pa.types.is_struct(kind):
        return pa.struct([field.with_type(_counted(field.type)) for field in kind])
    if pa.types.is_map(kind):
        key, item = _counted(kind.key_type), _counted(kind.item_type)
        return kind if (key, item) == (kind.key_type, kind.item_type) else pa.map_(key, item)
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_of(kind), kind.list_size)
    if pa.types.is_list(kind):
        return pa.list_(_of(kind))
    return pa.large_list(_of(kind)) if pa.types.is_large_list(kind) else kind


def _of(kind: Any) -> pa.Field:
    return kind.value_field.with_type(_counted(kind.value_type))
