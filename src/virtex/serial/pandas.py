"""pandas tables and columns as text: Arrow streams, in base64."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ._body import family, from_text, needed, to_text, wrong_family

if TYPE_CHECKING:
    import pandas

_PACKAGES = "pandas and pyarrow"
_INSTALL = '"headrace[arrow]"'


def encode_pandas(table: pandas.DataFrame | pandas.Series[Any]) -> str:
    """A DataFrame or Series as base64 of an uncompressed Arrow stream.

    Index, column order and labels, types, categories, time zones, missing values, names and
    `attrs` come through exactly: what cannot is an error.

    Args:
        table: Its columns may be of numpy's numbers, dates and durations, pandas' nullable,
            string, categorical, period and interval types, plain Arrow types, or objects that
            are all text or all bytes, but for one kind of missing value.

    Raises:
        TypeError: It is neither DataFrame nor Series, or of a subclass.
        ValueError: Something in it cannot be carried, such as duplicate columns or a mixed
            object column; the text names it.
        ModuleNotFoundError: pandas or pyarrow is not installed.
    """
    with needed("encode_pandas", _PACKAGES, install=_INSTALL):
        import pandas as pd
        import pyarrow  # noqa: F401  (what follows stands on it)

        from ._tables import pack
    if type(table) not in (pd.DataFrame, pd.Series):
        found = f"{type(table).__module__}.{type(table).__name__}"
        raise TypeError(f"encode_pandas: expected a DataFrame or Series, got {found}")
    try:
        return to_text(pack(table))
    except ValueError as error:
        raise ValueError(f"encode_pandas: {error}") from error


def decode_pandas(text: str) -> pandas.DataFrame | pandas.Series[Any]:
    """The DataFrame or Series that `encode_pandas` wrote, writable and with memory of its own.

    Nothing is allocated before it is sure that the body holds what it says, and nothing in it is
    run.

    Raises:
        TypeError: `text` is no text.
        ValueError: It is no base64, another family's body, or corrupt.
        ModuleNotFoundError: pandas or pyarrow is not installed.
    """
    with needed("decode_pandas", _PACKAGES, install=_INSTALL):
        import pandas as pd  # noqa: F401  (what follows stands on it)
        import pyarrow  # noqa: F401

        from ._tables import unpack
    body = from_text(text, "decode_pandas")
    if family(body) != "an Arrow stream":
        raise wrong_family(body, expected="an Arrow stream", function="decode_pandas")
    try:
        return unpack(body)
    except Exception as error:  # pandas fails in many ways on what it would not have written
        raise ValueError(f"decode_pandas: {error}") from error
