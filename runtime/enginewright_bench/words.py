"""Common English words: nearly every tokenizer has each of them, after a space, as one token."""

from __future__ import annotations

__all__ = ["WORDS"]

_TEXT = """
    time year people way day man thing woman life child world school state family student group country
    problem hand part place case week company system program question work government number night point home
    water room mother area money story fact month lot right study book eye job word business issue side kind
    head house service friend father power hour game line end member law car city name team minute idea body
    back parent face others level office door health person art war history party result change example reason
    research girl test moment air teacher force education
"""
WORDS = tuple(_TEXT.split())
