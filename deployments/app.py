"""The application builders that `serve_config.yaml` names. Scaling and draining values stand in that file."""

# No postponed annotations here: Serve validates `args` by the parameter's annotation and does not resolve strings.

from typing import Any

from ray.serve import Application

from deployments.config import AppArgs, prepare


def voice(args: AppArgs) -> Application:
    """The media path: ingress -> sessions, and the codec pool beside it. Wrong settings: RayServeException."""
    prepare(args)
    # Each builder runs in a process of its own and imports only what it deploys: seconds of a start.
    from deployments.codec_pool import CodecPool
    from deployments.ingress import MediaIngress
    from deployments.sessions import CallSessions

    # The pool is no argument that the ingress uses, but belongs to its application: bound, so that Serve deploys it.
    return _bind(MediaIngress, args, _bind(CallSessions, args), _bind(CodecPool, args))


def control(args: AppArgs) -> Application:
    """Everything that people, programs and provider webhooks talk to. Wrong settings: RayServeException."""
    prepare(args)
    from deployments.control_api import ControlApi
    from deployments.dialer import Dialer
    from deployments.workers import Workers

    return _bind(ControlApi, args, _bind(Dialer, args), _bind(Workers, args))


def _bind(deployment: Any, *args: object) -> Application:
    # `serve.deployment` turns a class into a Deployment, which its type annotations do not say.
    return deployment.bind(*args)
