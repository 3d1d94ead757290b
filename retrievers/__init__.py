"""Documents in, passages out. Knows nothing about models that write, prompts or HTTP."""
