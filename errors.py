"""Every error the project raises on purpose. Knows nothing about HTTP but the status each one maps to.

FccRagError
├── SettingsError          a setting cannot work; names the variable (stops the start)
├── WeightsError           weights cannot be found, fetched, verified or loaded (stops the start)
│   └── AdapterError       an adapter does not belong to its base model
├── StoreError             the vector store cannot be used (503)
│   ├── StoreLocked        another process holds the embedded store
│   └── CollectionMismatch the collection was made with another embedding model or size
├── DocumentError          a document cannot be read; carries the reason shown in the ingestion summary
├── InvalidRequest         a request asks for what cannot be done (422)
├── Forbidden              a request may not do this (403)
├── NotFound               a request names what is not there (404)
├── PromptTooLong          a prompt can never fit the model's window (413)
├── QueueFull              too many requests are waiting (429, Retry-After)
└── EngineError            the engine failed or is away (503, Retry-After)
"""


class FccRagError(Exception):
    """The root: `str(error)` is one line fit for a user; `code` and `status` are what the API answers."""

    code = "error"
    status = 500
    retry_after: int | None = None  # seconds


class SettingsError(FccRagError):
    code = "settings"


class WeightsError(FccRagError):
    code = "weights"
    status = 503


class AdapterError(WeightsError):
    code = "adapter"


class StoreError(FccRagError):
    code = "store_unavailable"
    status = 503
    retry_after = 5


class StoreLocked(StoreError):
    code = "store_locked"


class CollectionMismatch(StoreError):
    code = "collection_mismatch"


class DocumentError(FccRagError):
    code = "document"
    status = 422


class InvalidRequest(FccRagError):
    code = "invalid_request"
    status = 422


class Forbidden(FccRagError):
    code = "forbidden"
    status = 403


class NotFound(FccRagError):
    code = "not_found"
    status = 404


class PromptTooLong(FccRagError):
    code = "prompt_too_long"
    status = 413


class QueueFull(FccRagError):
    code = "queue_full"
    status = 429

    def __init__(self, message: str, retry_after: int) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class EngineError(FccRagError):
    code = "engine_unavailable"
    status = 503
    retry_after = 5
