"""One call's Pipecat pipeline, as `pipecat init --transport twilio --stt deepgram_flux_stt --llm groq_llm --tts
cartesia_tts` of 1.14.0 writes it. Where it differs from that scaffold, a comment says why; README.md has the list.
"""

from __future__ import annotations

from dataclasses import dataclass

from fastapi import WebSocket
from pipecat.frames.frames import LLMRunFrame, TTSSpeakFrame
from pipecat.pipeline.pipeline import Pipeline
from pipecat.pipeline.worker import PipelineParams, PipelineWorker
from pipecat.processors.aggregators.llm_context import LLMContext
from pipecat.processors.aggregators.llm_response_universal import LLMContextAggregatorPair, LLMUserAggregatorParams
from pipecat.serializers.vonage import VonageFrameSerializer
from pipecat.services.cartesia.tts import CartesiaTTSService
from pipecat.services.deepgram.flux.stt import DeepgramFluxSTTService
from pipecat.services.groq.llm import GroqLLMService
from pipecat.transports.websocket.fastapi import FastAPIWebsocketParams, FastAPIWebsocketTransport
from pipecat.turns.user_turn_strategies import ExternalUserTurnStrategies
from pipecat.workers.runner import WorkerRunner

SAMPLE_RATE_HZ = 16_000
FRAME_BYTES = 640
"""20 ms of 16 kHz linear PCM: the only size that the phone network takes."""


@dataclass(frozen=True, slots=True)
class BotOptions:
    """Where the providers are and what the agent is. `greeting` empty: the model opens the call, as in the scaffold."""

    stt_url: str
    llm_url: str
    tts_url: str
    llm_model: str
    tts_model: str
    tts_voice: str
    system_prompt: str
    greeting: str
    stt_end_of_turn_threshold: float
    stt_end_of_turn_timeout_ms: int


def make_transport(websocket: WebSocket) -> FastAPIWebsocketTransport:
    """The transport of an accepted socket whose first text frame was read."""
    return FastAPIWebsocketTransport(
        websocket=websocket,
        params=FastAPIWebsocketParams(
            audio_in_enabled=True,
            audio_out_enabled=True,
            add_wav_header=False,
            # The scaffold does not offer Vonage: its serializer has to be set by hand.
            serializer=VonageFrameSerializer(VonageFrameSerializer.InputParams(vonage_sample_rate=SAMPLE_RATE_HZ)),
            # The network drops a socket on any other frame size; the tail of an utterance is not a whole frame.
            fixed_audio_packet_size=FRAME_BYTES,
        ),
    )


async def run_bot(transport: FastAPIWebsocketTransport, call_id: str, options: BotOptions) -> None:
    """Talk until the caller's socket closes."""
    stt = DeepgramFluxSTTService(
        api_key="simulated",
        url=options.stt_url,
        mip_opt_out=True,
        tag=[call_id],  # the stand-in finds the callee's script by it
        settings=DeepgramFluxSTTService.Settings(
            eot_threshold=options.stt_end_of_turn_threshold, eot_timeout_ms=options.stt_end_of_turn_timeout_ms
        ),
    )
    tts = CartesiaTTSService(
        api_key="simulated",
        url=options.tts_url,
        settings=CartesiaTTSService.Settings(model=options.tts_model, voice=options.tts_voice),
    )
    llm = GroqLLMService(
        api_key="simulated",
        base_url=options.llm_url,
        settings=GroqLLMService.Settings(
            model=options.llm_model, reasoning_effort="low", system_instruction=options.system_prompt
        ),
    )
    context = LLMContext()
    user_aggregator, assistant_aggregator = LLMContextAggregatorPair(
        context,
        # Flux decides about turns: the Silero VAD that the scaffold adds would only cost CPU. And without these
        # strategies, which Flux itself recommends once it runs, each call would first load a turn model in vain.
        user_params=LLMUserAggregatorParams(user_turn_strategies=ExternalUserTurnStrategies()),
    )
    pipeline = Pipeline(
        [
            transport.input(),
            stt,
            user_aggregator,
            llm,
            tts,
            transport.output(),
            assistant_aggregator,
        ]
    )
    worker = PipelineWorker(
        pipeline,
        # Metrics are off by default and stay off; the scaffold turns them on. One rate everywhere: no resampling.
        params=PipelineParams(audio_in_sample_rate=SAMPLE_RATE_HZ, audio_out_sample_rate=SAMPLE_RATE_HZ),
        # Both are on by default: a processor and two observers for browser clients and traces, of no use on a phone.
        enable_rtvi=False,
        enable_turn_tracking=False,
    )
    runner = WorkerRunner(handle_sigint=False)
    await runner.add_workers(worker)

    @transport.event_handler("on_client_connected")
    async def on_client_connected(transport: FastAPIWebsocketTransport, client: WebSocket) -> None:
        if options.greeting:
            await worker.queue_frames([TTSSpeakFrame(options.greeting)])
        else:
            context.add_message({"role": "developer", "content": "Start by concisely introducing yourself."})
            await worker.queue_frames([LLMRunFrame()])

    @transport.event_handler("on_client_disconnected")
    async def on_client_disconnected(transport: FastAPIWebsocketTransport, client: WebSocket) -> None:
        await runner.cancel()

    await runner.run()
