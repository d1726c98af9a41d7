"""Operator norms on AlexNet, ResNet-50 and VGG16: onnxlip, the authors' method, and others.

    python -m benchmarks.norms --cache ~/.cache/onnxlip-benchmarks
    python -m benchmarks.norms --only alexnet --profile
    python -m benchmarks.norms --singles

architectures ── weights     the networks as ONNX files, in a cache folder
authors                      the power method of Virmaux & Scaman 2018 in torch: the baseline
ours                         what of onnxlip is timed, and the reference norms
singles                      single layers against numpy, scipy, torch, power iterations
child                        one job in a process of its own: seconds, peak memory, foreign load
run ── tables                everything side by side, as markdown
"""
