"""The public front of a packaged model: text in, text out, over Triton's wire. An engine makes the tokens.

A copy of this package travels in every model repository and is what the repository runs. It imports only the
standard library, numpy, jinja2, tokenizers, `enginewright_errors` and, inside Triton, its `pb_utils`.

    wire                        the one table of tensors; pbtxt and repository write it, request checks by it
    gather_fields, request      a request's tensors and parameters -> a checked `GenerateRequest`
    chat_template, prompt       text or messages -> token ids
    backend                     what the front asks of an engine; onnx_backend, bls_backend, scripted_backend
                                answer it
    bls_model, bls_call         requests to TensorRT-LLM's models in the same server
    trtllm_inputs, _answers     a request as those models' tensors, and back
    detokenizer, stop_strings   token ids -> text, never half a character, never a stop word
    session                     one request: token events -> output tensors
    dispatcher, watch           all requests: admission, responses, cancellation, a hung engine
    model, unary                the two classes that Triton loads
"""
