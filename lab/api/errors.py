"""Errors as DigitalOcean words them: a status, an id, a message."""

from __future__ import annotations


class ApiError(Exception):
    """Becomes `{"id", "message", "request_id"}` with this status."""

    def __init__(self, status: int, id_: str, message: str, headers: dict[str, str] | None = None) -> None:
        super().__init__(message)
        self.status = status
        self.id = id_
        self.message = message
        self.headers = headers or {}


def not_found(what: str = "resource") -> ApiError:
    return ApiError(404, "not_found", f"The {what} you were accessing could not be found.")


def unprocessable(message: str) -> ApiError:
    return ApiError(422, "unprocessable_entity", message)


def bad_request(message: str) -> ApiError:
    return ApiError(400, "bad_request", message)


def forbidden(message: str = "You do not have access for the attempted action.") -> ApiError:
    return ApiError(403, "forbidden", message)


def conflict(message: str) -> ApiError:
    return ApiError(409, "conflict", message)


def precondition_failed(message: str) -> ApiError:
    return ApiError(412, "precondition_failed", message)


def server_error(message: str = "Unexpected server-side error") -> ApiError:
    return ApiError(500, "server_error", message)
