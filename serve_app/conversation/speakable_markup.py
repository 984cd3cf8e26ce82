"""What a language model writes for the eye: markdown, HTML, emoji, line breaks. None of it is said."""

from __future__ import annotations

import re
from collections.abc import Iterator

Replacement = tuple[int, int, str]
"""Start and end in the text, and what is said instead."""

# At the beginning of a line: heading, quote, bullet, check box. A ruler, a table's rule or a fence is a whole line.
_LINE = re.compile(
    r"^[ \t]*(?:```.*$|(?:[|:\-–—*_=][ \t]*){3,}$|#{1,6}[ \t]+|(?:>[ \t]?)+|[-*+•][ \t]+(?:\[[ xX]\][ \t]+)?)",
    re.MULTILINE,
)
# The text of a link is said, where it leads is not; nor is the number of a note, nor a tag.
_LINK = re.compile(
    r"!?\[(?=[^\]\n]*\]\()|\]\([^)\s]*(?:\s+\"[^\"\n]*\")?\)|\[\^?\d{1,3}\]|</?(?!https?:|www\.|[^<>\s]+@)[A-Za-z][^<>\n]*>"
)
_INLINE = re.compile(
    r"(?P<star>\*+)|(?P<underscore>_+)|(?P<mark>`+|~~+|\\(?=[^\w\s]))"
    r"|(?P<cell>[ \t]*\|[ \t]*)|(?P<line>[ \t]*\n\s*)"
    r"|(?P<picture>[\U0001F000-\U0001FAFF\U000E0020-\U000E007F\u2300-\u23FF\u2600-\u27BF\u2B00-\u2BFF"
    r"\uFE0E\uFE0F\u200B-\u200F\u2060\u20E3™®]+)"
)
_UNSAID_TAIL = re.compile(r"[\s*_`~|]+$")


def links(text: str) -> Iterator[Replacement]:
    """What stands around the text of links, and tags."""
    for match in _LINK.finditer(text):
        yield match.start(), match.end(), ""


def markup(text: str) -> Iterator[Replacement]:
    """The spans that only the eye needs."""
    lines = list(_LINE.finditer(text))
    for match in lines:
        yield match.start(), match.end(), ""
    for match in _INLINE.finditer(text):
        start, end = match.span()
        line = text.rfind("\n", 0, start) + 1
        begun = next((mark.end() for mark in lines if line <= mark.start() <= start), line)
        if start < begun < end:
            # What is left of it after a bullet that took its first spaces.
            yield begun, end, ""
        elif start >= begun and (said := _said(text, match, begun)) is not None:
            yield start, end, said


def _said(text: str, match: re.Match[str], begun: int) -> str | None:
    """What is said for the match; None when it is no markup. `begun`: where the text of its line begins."""
    kind, (start, end) = match.lastgroup, match.span()
    before, after = text[start - 1 : start], text[end : end + 1]
    if kind == "star":
        # "5 * 3" is a product.
        between_spaces = (not before or before.isspace()) and (not after or after.isspace())
        return None if len(match.group()) == 1 and (between_spaces or (before.isdigit() and after.isdigit())) else ""
    if kind == "underscore":
        return " " if before.isalnum() and after.isalnum() else ""
    if kind == "cell":
        at_edge = start == 0 or before == "\n" or not after or after == "\n"
        return "" if at_edge else ", "
    if kind == "line":
        said = _UNSAID_TAIL.sub("", text[begun:start])
        return ". " if said and (said[-1].isalnum() or said[-1] in ")]%€$£\"'»”’°") else " "
    return ""
