"""The application builders that `serve_config.yaml` names. Scaling and draining values stand in that file."""

# No postponed annotations here: Serve validates `args` by the parameter's annotation and does not resolve strings.

from ray.serve import Application

from deployments.codec_pool import CodecPool
from deployments.control_api import ControlApi
from deployments.dialer import Dialer
from deployments.ingress import MediaIngress
from deployments.runtime import AppArgs
from deployments.sessions import CallSessions
from deployments.workers import Workers


def voice(args: AppArgs) -> Application:
    """The media path: ingress -> sessions, and the codec pool beside it."""
    # The pool is no argument of the ingress, but belongs to its application: bound, so that Serve deploys it.
    return MediaIngress.bind(args, CallSessions.bind(args), CodecPool.bind(args))


def control(args: AppArgs) -> Application:
    """Everything that people, programs and provider webhooks talk to."""
    return ControlApi.bind(args, Dialer.bind(args), Workers.bind(args))
