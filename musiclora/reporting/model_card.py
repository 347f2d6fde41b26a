"""Model cards: the README.md of adapter and model folders, with the header that the Hugging Face Hub reads."""

from __future__ import annotations

import re

# Licence ids of the Hub that models of music carry; any other licence is `other` there, with its name beside it.
_HUB_LICENCES = frozenset(
    """afl-3.0 agpl-3.0 apache-2.0 artistic-2.0 bigscience-openrail-m bsd bsd-2-clause bsd-3-clause bsl-1.0 cc cc-by-2.0
    cc-by-3.0 cc-by-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nc-nd-4.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0
    cc-by-nd-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc0-1.0 creativeml-openrail-m epl-2.0 eupl-1.2 gpl gpl-2.0 gpl-3.0 isc lgpl
    lgpl-2.1 lgpl-3.0 llama2 llama3 mit mpl-2.0 odc-by openrail openrail++ osl-3.0 other pddl unlicense wtfpl
    zlib""".split()
)
_KNOWN_NAME = re.compile(r"[\w.+-]{1,60}", re.ASCII)
_HEADER = re.compile(r"---\r?\n(?P<lines>.*?)^---[ \t]*\r?\n?(?P<body>.*)", re.DOTALL | re.MULTILINE)
_ENTRY = re.compile(r"(?P<key>[\w-]+):.*?(?=^[\w-]+:|\Z)", re.DOTALL | re.MULTILINE)


def adapter_kind(dora: bool) -> str:
    """Name the kind of an adapter, with or without DoRA's magnitudes."""
    return "DoRA" if dora else "LoRA"


def adapter_tags(family_tag: str, dora: bool) -> tuple[str, ...]:
    """List the words to find an adapter by on the Hub; DoRA is a kind of LoRA there."""
    return ("music", "lora", *(("dora",) if dora else ()), family_tag)


def card_header(
    *, pipeline_tag: str, tags: tuple[str, ...], base: str = "", licence: str = "unknown", library: str = ""
) -> str:
    """Write the YAML header of a card.

    Args:
        pipeline_tag: the Hub's name of the task.
        tags: further words to find it by.
        base: Hub id of the base, whose revision the header does not hold; empty for another base.
        licence: as the base's card states it; `unknown` and licences that the Hub does not know become `other`.
        library: the library that loads the folder.
    """
    lines = [f"base_model: {base.partition('@')[0]}"] if base else []
    lines += [f"library_name: {library}"] if library else []
    lines += [*_licence_lines(licence), f"pipeline_tag: {pipeline_tag}", f"tags: [{', '.join(tags)}]"]
    return "\n".join(["---", *lines, "---", ""])


def _licence_lines(licence: str) -> list[str]:
    identifier = licence.lower()
    if identifier in _HUB_LICENCES:
        return [f"license: {identifier}"]
    named = identifier != "unknown" and _KNOWN_NAME.fullmatch(licence)
    return ["license: other", f"license_name: {identifier}"] if named else ["license: other"]


def complete_card(card: str, *, pipeline_tag: str, tags: tuple[str, ...], base: str = "") -> str:
    """Complete the header of a card that another tool or a person wrote: its base, a licence and a task.

    A base that is no Hub id is left out, since it is a path of somebody's machine.
    """
    found = _HEADER.match(card)
    if found is None:
        return f"{card_header(pipeline_tag=pipeline_tag, tags=tags, base=base)}\n{card}"
    entries = {entry["key"]: entry[0] for entry in _ENTRY.finditer(found["lines"])}
    entries.pop("base_model", None)
    if "tags" in entries:  # PEFT repeats the base there
        lines = entries["tags"].splitlines(keepends=True)
        entries["tags"] = "".join(line for line in lines if "base_model:" not in line)
    added = {"base_model": f"base_model: {base.partition('@')[0]}\n"} if base else {}
    defaults = {"license": "license: other\n", "pipeline_tag": f"pipeline_tag: {pipeline_tag}\n"}
    return "---\n" + "".join((added | defaults | entries).values()) + f"---\n{found['body']}"


def card_body(card: str) -> str:
    """Return a card without its header."""
    found = _HEADER.match(card)
    return found["body"] if found else card


def describe_base(base: str, weights: str = "") -> str:
    """Name a base in a sentence: by its public name, else by the fingerprint of its weights."""
    if base:
        return base
    return f"a base with the fingerprint {weights[:8]}" if weights else "a base of its own"
