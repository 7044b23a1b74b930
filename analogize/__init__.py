"""analogize: a compiler for analog in-memory-computing hardware."""
