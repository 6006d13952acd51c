"""What quantization cost: figures of a model against the original, with intervals, and the gate on them."""
