"""How tests compile: fast, for programs that run a few times only."""

# What LLVM's optimiser takes would be most of the time. Level 0 takes 40 % less still, but makes
# the gradients of configs/bs80k_regions.py NaN on eight devices.
FAST = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=1"
