"""Rows as people want them: text as wide as the terminal, HTML, CSV, a data frame.

A result gives its rows (``to_rows``); ``Shown`` gives it everything else.
"""

from __future__ import annotations

import csv
import shutil
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from typing import Any

from rich.console import Console, RenderableType

# Where the output is no terminal, and has no width of its own.
_PIPED = 120
_WIDEST = 160
# A repr shows sequences of up to so many entries, and the length of longer ones.
_SHORT = 6

Row = Mapping[str, Any]

_STYLE = (
    "border-collapse:collapse;font-variant-numeric:tabular-nums;font-size:13px",
    "text-align:right;padding:.25em .7em;border-bottom:2px solid #8886",
    "text-align:right;padding:.25em .7em;border-bottom:1px solid #8883",
)


def width() -> int:
    """Columns to write: those of the terminal or of COLUMNS, up to 160; 120 without either."""
    return min(shutil.get_terminal_size((_PIPED, 24)).columns, _WIDEST)


def text(*parts: RenderableType, columns: int | None = None) -> str:
    """What Rich makes of tables and text in so many columns, without colours or spaces at ends."""
    stream = StringIO()
    console = Console(file=stream, width=columns or width(), color_system=None)
    for part in parts:
        console.print(part)
    return "\n".join(line.rstrip() for line in stream.getvalue().splitlines())


def html(rows: Sequence[Row], title: str = "", note: str = "") -> str:
    """A table for notebooks, in the colours of the page."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    table, head, cell = _STYLE
    above = "".join(f'<th style="{head}">{escape(name)}</th>' for name in names)
    body = "".join(
        "<tr>"
        + "".join(f'<td style="{cell}">{escape(shown(row.get(name)))}</td>' for name in names)
        + "</tr>"
        for row in rows
    )
    return (
        f'<div style="overflow-x:auto">{f"<p><b>{escape(title)}</b></p>" if title else ""}'
        f'<table style="{table}"><thead><tr>{above}</tr></thead><tbody>{body}</tbody></table>'
        f"{f'<p>{escape(note)}</p>' if note else ''}</div>"
    )


def csv_text(rows: Sequence[Row]) -> str:
    """Comma-separated values with a header; nothing for no rows."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    stream = StringIO()
    writer = csv.DictWriter(stream, names, lineterminator="\n")
    if names:
        writer.writeheader()
    writer.writerows(rows)
    return stream.getvalue()


def frame(rows: Sequence[Row]) -> Any:
    """The rows as a pandas data frame.

    Raises:
        ImportError: pandas is not installed.
    """
    try:
        import pandas  # type: ignore[import-untyped, unused-ignore]
    except ImportError as cause:
        raise ImportError("to_pandas() needs pandas: pip install pandas") from cause
    return pandas.DataFrame(list(rows))


def shown(value: Any) -> str:
    """A cell as a table shows it: four digits, and a dash for nothing."""
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def shortened(arguments: Iterator[tuple[str | None, Any]]) -> Iterator[tuple[str | None, Any]]:
    """Names and values for a repr that fits a screen: long sequences by their length."""
    for name, value in arguments:
        if isinstance(value, tuple | list) and len(value) > _SHORT:
            yield name, _Counted(len(value))
        else:
            yield name, value


class _Counted:
    def __init__(self, count: int) -> None:
        self._count = count

    def __repr__(self) -> str:
        return f"<{self._count} values>"


class Shown:
    """A result with ``to_rows`` that shows itself: in notebooks, as a data frame, in a short repr.

    Completion offers the result's own names, without those of the library that checks its fields.
    """

    def to_rows(self) -> list[dict[str, Any]]:
        """One dictionary a row, for tables."""
        raise NotImplementedError

    def to_pandas(self) -> Any:
        """``to_rows`` as a pandas data frame.

        Raises:
            ImportError: pandas is not installed.
        """
        return frame(self.to_rows())

    def to_csv(self) -> str:
        """``to_rows`` as comma-separated values."""
        return csv_text(self.to_rows())

    def _title(self) -> str:
        return type(self).__name__

    def _repr_html_(self) -> str:
        return html(self.to_rows(), self._title())

    def __repr_args__(self) -> Iterator[tuple[str | None, Any]]:
        return shortened(iter(super().__repr_args__()))  # type: ignore[misc]

    def __dir__(self) -> list[str]:
        kept = [n for n in super().__dir__() if n.startswith("__") or not _is_foreign(n)]
        return kept


def _is_foreign(name: str) -> bool:
    """Whether pydantic brought the name."""
    return name.startswith(
        ("model_", "_abc", "_calculate", "_copy_and", "_get_value", "_iter")
    ) or (name in _DEPRECATED)


# Pydantic's methods of before, which it keeps under their plain names.
_DEPRECATED = {
    *("construct", "copy", "dict", "from_orm", "json", "parse_file", "parse_obj", "parse_raw"),
    *("schema", "schema_json", "update_forward_refs", "validate"),
}
