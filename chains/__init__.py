"""LCEL runnables built from the retriever and the model they are given. Knows neither torch nor Qdrant nor HTTP."""
