"""RFC 9457 problem details for every error of the API, each with a stable `code` and a `remedy` where there is one."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from serve_app.errors import AtCapacityError, ProviderError, UnavailableError

MEDIA_TYPE = "application/problem+json"
log = structlog.get_logger(__name__)


class ProblemError(Exception):
    """Answered as a problem. `code` is stable and for programs; `detail` and `remedy` are for people."""

    def __init__(
        self,
        status: int,
        code: str,
        detail: str,
        *,
        remedy: str | None = None,
        errors: Sequence[Mapping[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        **extra: Any,
    ) -> None:
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.remedy = remedy
        self.errors = list(errors)
        self.headers = dict(headers or {})
        self.extra = extra


def field_problem(field: str, message: str, remedy: str, *, code: str = "invalid_request") -> ProblemError:
    """422 that names one field of the request."""
    error = {"field": field, "message": message, "remedy": remedy}
    return ProblemError(422, code, f"{field}: {message}", remedy=remedy, errors=[error])


def not_found(what: str) -> ProblemError:
    """404; also for what exists under another tenant, so that ids cannot be probed."""
    return ProblemError(404, "not_found", f"there is no such {what}", remedy=f"check the id of the {what}")


def problem_response(request: Request, problem: ProblemError) -> JSONResponse:
    body: dict[str, Any] = {
        "type": f"urn:parley:problem:{problem.code}",
        "title": HTTPStatus(problem.status).phrase,
        "status": problem.status,
        "code": problem.code,
        "detail": problem.detail,
        "instance": request.url.path,
    }
    if problem.remedy:
        body["remedy"] = problem.remedy
    if problem.errors:
        body["errors"] = problem.errors
    request_id = getattr(request.state, "request_id", None)
    if request_id:
        body["request_id"] = request_id
    return JSONResponse(body | problem.extra, problem.status, headers=problem.headers, media_type=MEDIA_TYPE)


def install_problem_handlers(app: FastAPI) -> None:
    """Make every error of `app` a problem, those of the framework included; what is left is `RequestLog`'s."""
    app.add_exception_handler(ProblemError, _on_problem)
    app.add_exception_handler(HTTPException, _on_http_exception)
    app.add_exception_handler(RequestValidationError, _on_validation_error)
    app.add_exception_handler(UnavailableError, _on_unavailable)
    app.add_exception_handler(TimeoutError, _on_timeout)
    app.add_exception_handler(AtCapacityError, _on_at_capacity)
    app.add_exception_handler(ProviderError, _on_provider_error)


async def _on_problem(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProblemError)
    return problem_response(request, error)


_HTTP_CODES = {
    404: ("not_found", "there is nothing at this path", "see /docs for the paths of this API"),
    405: ("method_not_allowed", "this path does not take this method", "see the Allow header, and /docs"),
}


async def _on_http_exception(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, HTTPException)
    code, detail, remedy = _HTTP_CODES.get(error.status_code, ("http_error", str(error.detail), None))
    problem = ProblemError(error.status_code, code, detail, remedy=remedy, headers=error.headers)
    return problem_response(request, problem)


async def _on_validation_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, RequestValidationError)
    names = _body_fields(request)
    errors = [validation_entry(item, names) for item in error.errors()]
    first = errors[0]
    detail = f"{first['field']}: {first['message']}"
    problem = ProblemError(422, "invalid_request", detail, remedy=first["remedy"], errors=errors)
    return problem_response(request, problem)


def _body_fields(request: Request) -> list[str]:
    """The names that the route's body takes at its top level, for the nearest one to a misspelt name."""
    body = getattr(request.scope.get("route"), "body_field", None)
    model = getattr(getattr(body, "field_info", None), "annotation", None)
    if not (isinstance(model, type) and issubclass(model, BaseModel)):
        return []
    return [field.alias or name for name, field in model.model_fields.items()]


def validation_entry(item: Mapping[str, Any], valid_names: Sequence[str]) -> dict[str, str]:
    """One pydantic error as field, message and remedy. The offending value is not repeated: it may be private.

    `valid_names`: of the fields at the top, for the nearest one to a misspelt name.
    """
    location = [str(part) for part in item["loc"]]
    if location and location[0] in ("body", "query", "path", "header"):
        location = location[1:] or [location[0]]
    field = ".".join(location) or "body"
    context = item.get("ctx") or {}
    kind = item["type"]
    if "remedy" in context:
        remedy = str(context["remedy"])
    elif kind == "missing":
        remedy = f"add the field {field}"
    elif kind == "extra_forbidden":
        nearest = difflib.get_close_matches(location[-1], valid_names, n=1, cutoff=0.5)
        remedy = f"did you mean {nearest[0]}?" if nearest else "remove this field; see /docs for the known ones"
    elif kind == "json_invalid":
        field, remedy = "body", "send one JSON object, with Content-Type: application/json"
    else:
        remedy = "see /docs for the type and the bounds of this field"
    return {"field": field, "message": str(item["msg"]), "remedy": remedy}


async def _on_unavailable(request: Request, error: Exception) -> JSONResponse:
    log.error("service_unavailable", error=str(error))
    problem = ProblemError(
        503,
        "unavailable",
        "a service that this request needs does not answer",
        remedy="try again in a few seconds; /ready names the service",
        headers={"Retry-After": "2"},
    )
    return problem_response(request, problem)


async def _on_timeout(request: Request, error: Exception) -> JSONResponse:
    log.error("request_timed_out")
    problem = ProblemError(504, "timeout", "this request took too long inside the platform", remedy="try again")
    return problem_response(request, problem)


async def _on_at_capacity(request: Request, error: Exception) -> JSONResponse:
    problem = ProblemError(
        503, "at_capacity", str(error), remedy="try again when a call has ended", headers={"Retry-After": "5"}
    )
    return problem_response(request, problem)


async def _on_provider_error(request: Request, error: Exception) -> JSONResponse:
    assert isinstance(error, ProviderError)
    log.warning("provider_error", stage=error.stage, provider=error.provider, error=str(error))
    remedy = "try again" if error.retryable else "check the configuration of the provider (parley doctor)"
    problem = ProblemError(502, "provider_error", f"{error.provider} did not do what was asked", remedy=remedy)
    return problem_response(request, problem)


def unexpected_problem(request: Request) -> JSONResponse:
    """500 for what nobody foresaw. It says nothing of the fault itself."""
    problem = ProblemError(500, "internal_error", "this request failed inside the platform", remedy="report request_id")
    return problem_response(request, problem)
