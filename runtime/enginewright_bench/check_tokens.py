"""Whether prompts and answers had the tokens they should have, by the server's counts and by a tokenizer."""

from __future__ import annotations

from collections.abc import Sequence

from enginewright_bench.count_tokens import LocalTokenizer
from enginewright_bench.record import RequestRecord
from enginewright_bench.result import TokenCheck
from enginewright_bench.send_request import BenchRequest

__all__ = ["check_tokens"]


def check_tokens(
    requests: Sequence[BenchRequest], records: Sequence[RequestRecord], tokenizer: LocalTokenizer | None
) -> TokenCheck:
    """Of the answered requests, warm-up included; the answers' texts are encoded again if there is a
    tokenizer."""
    asked = {request.index: request for request in requests}
    answered = [record for record in records if record.failure is None]
    wrong = short = 0
    for record in answered:
        request = asked[record.index]
        wrong += request.input_tokens is not None and record.input_tokens != request.input_tokens
        short += (record.output_tokens or 0) < (request.sampling.min_tokens or 0)
    if tokenizer is None:
        return TokenCheck(input_mismatches=wrong, short_answers=short)
    return TokenCheck(
        input_mismatches=wrong,
        short_answers=short,
        retokenized=sum(tokenizer.tokens(record.text) for record in answered),
        counted=sum(record.output_tokens or 0 for record in answered),
    )
