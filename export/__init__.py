"""From a model folder to files that phones run: TorchScript, ONNX for sherpa-onnx, ExecuTorch, and the proof that they agree.

``sherpa``, ``torchscript`` and ``pte`` make the files, ``quantize`` the int8 ones, ``bundle`` writes an export whole or
not at all; ``*_runtime`` streams audio through each, ``verify`` compares them symbol by symbol (``cases``, ``ladder``,
``worker``), ``cli`` is ``asr export`` and ``asr verify``; ``cpp`` is a program for the TorchScript file. Nothing here
holds a second copy of the model: every target wraps the model's own ``step``.
"""
