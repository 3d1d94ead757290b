"""Weights in, chat model out. Knows nothing about documents or HTTP."""
