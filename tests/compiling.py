"""How tests compile: fast, for programs that run a few times only."""

# What LLVM's optimiser takes would be most of the time.
FAST = "--xla_llvm_disable_expensive_passes=true --xla_backend_optimization_level=1"
