"""Embedding models behind other people's clients, and encoders by name."""

import asyncio
import copy
import hashlib
import json
import threading
from types import SimpleNamespace

import numpy as np
import pytest

from routellm_core import MatrixFactorizationRouter, RoutingPolicy, load_router
from routellm_core.encoders import ENCODERS, HashingEncoder, RemoteEncoder, as_encoder, resolve_encoder
from routellm_core.errors import ConfigurationError, EncoderError, RouterFormatError
from routellm_core.policy import RouteRequest
from routellm_core.testing import EncoderContract, Reply

DIM = 8


def vector(text, dim=DIM):
    seed = int.from_bytes(hashlib.sha256(text.encode("utf-8", "surrogatepass")).digest()[:8], "little")
    return np.random.default_rng(seed).normal(size=dim).tolist()


def vectors(texts):
    return [vector(text) for text in texts]


class Recorder:
    """Base of the stand-ins: says no, or notes what it was sent and from which thread."""

    def __init__(self, error=None, answer=vectors):
        self.error, self.answer = error, answer
        self.sent, self.threads = [], []

    def note(self, texts):
        self.sent.append(list(texts))
        self.threads.append(threading.current_thread())
        if self.error is not None:
            raise self.error
        return self.answer(texts)


class LangChainLike(Recorder):
    model = "chain-embedding"

    def embed_documents(self, texts):
        return self.note(texts)

    async def aembed_documents(self, texts):
        return self.note(texts)


class LlamaLike(Recorder):
    model_name = "llama-embedding"

    def get_text_embedding_batch(self, texts, show_progress=False):
        return self.note(texts)

    async def aget_text_embedding_batch(self, texts, show_progress=False):
        return self.note(texts)

    async def _aget_text_embedding(self, text):
        raise AssertionError("only its presence counts")


class OpenAILike(Recorder):
    """Answers in the wrong order, as the protocol allows."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.embeddings = SimpleNamespace(create=self.create)

    def create(self, *, model, input):
        self.model_asked = model
        rows = [SimpleNamespace(index=i, embedding=row) for i, row in enumerate(self.note(input))]
        return SimpleNamespace(data=rows[::-1])


class AsyncOpenAILike(OpenAILike):
    async def create(self, *, model, input):
        return OpenAILike.create(self, model=model, input=input)


class StatusError(Exception):
    def __init__(self, status):
        super().__init__("the prompt was: secret words")
        self.status_code = status


class TestRemote(EncoderContract):
    def make(self):
        return RemoteEncoder(LangChainLike(), dim=DIM, batch_size=3)

    def test_it_is_restored_from_its_description_and_files(self, tmp_path):
        """Not without its object; what must stand instead is in the tests below."""
        with pytest.raises(ConfigurationError, match="chain-embedding"):
            ENCODERS.load("remote").restore(self.make().settings(), tmp_path)


class TestThroughAnAsyncFunction:
    def test_only_the_asynchronous_calls_work(self):
        async def embed(texts):
            return vectors(texts)

        encoder = RemoteEncoder(embed, name="async", dim=DIM)
        np.testing.assert_allclose(asyncio.run(encoder.aencode(["a"])), [vector("a")], atol=1e-6)
        with pytest.raises(EncoderError, match="asynchronous client only"):
            encoder.encode(["a"])


# -- recognising the object
@pytest.mark.parametrize("cls", [LangChainLike, LlamaLike, OpenAILike])
def test_each_kind_of_client_gives_its_vectors_in_the_order_of_the_texts(cls):
    encoder = RemoteEncoder(cls(), name="m")
    np.testing.assert_allclose(encoder.encode(["b", "a", "c"]), vectors(["b", "a", "c"]), atol=1e-6)
    np.testing.assert_allclose(asyncio.run(encoder.aencode(["b", "a"])), vectors(["b", "a"]), atol=1e-6)


def test_an_asynchronous_openai_client_is_awaited_on_the_event_loop():
    client = AsyncOpenAILike()
    encoder = RemoteEncoder(client, name="m", dim=DIM)
    assert encoder.is_async
    np.testing.assert_allclose(asyncio.run(encoder.aencode(["b", "a"])), vectors(["b", "a"]), atol=1e-6)
    assert client.model_asked == "m"
    assert client.threads == [threading.main_thread()]


@pytest.mark.parametrize("source", [OpenAILike(), vectors], ids=["client", "function"])
def test_a_client_without_an_asynchronous_method_never_runs_on_the_event_loop(source):
    threads = []

    def noted(texts):
        threads.append(threading.current_thread())
        return vectors(texts)

    if isinstance(source, OpenAILike):
        source.answer = noted
    encoder = RemoteEncoder(source if source is not vectors else noted, name="m", dim=DIM)
    assert not encoder.is_async
    asyncio.run(encoder.aencode(["a"]))
    assert threading.main_thread() not in threads
    assert len(threads) == 1


@pytest.mark.parametrize(
    ("base", "hook"), [("Embeddings", "aembed_documents"), ("BaseEmbedding", "_aget_text_embeddings")]
)
def test_a_frameworks_own_stand_in_for_an_asynchronous_method_is_not_taken_for_one(base, hook):
    async def stand_in(self, texts):
        raise AssertionError("LlamaIndex's would run the model on the event loop")

    sync = "embed_documents" if base == "Embeddings" else "get_text_embedding_batch"
    parent = type(base, (), {hook: stand_in, "aget_text_embedding_batch": stand_in})
    cls = type("Local", (parent,), {sync: lambda self, texts: vectors(texts), "model_name": "local"})
    encoder = RemoteEncoder(cls(), dim=DIM)
    assert not encoder.is_async
    assert asyncio.run(encoder.aencode(["a"])).shape == (1, DIM)


@pytest.mark.parametrize("wrong", [None, 3, object(), HashingEncoder, {"model": "x"}])
def test_what_is_no_encoder_is_refused_with_the_ways_to_give_one(wrong):
    with pytest.raises(ConfigurationError, match=r"OpenAIEmbeddings.*OpenAIEmbedding.*OpenAI\(\).*RemoteEncoder"):
        as_encoder(wrong)


def test_an_encoder_stays_as_it_is_and_a_name_is_looked_up():
    encoder = HashingEncoder(32)
    assert as_encoder(encoder) is encoder
    assert as_encoder("hashing:32").digest == encoder.digest


# -- name and width
def test_an_object_that_says_its_model_and_width_needs_neither_told():
    source = LangChainLike()
    source.dimensions = 8
    encoder = RemoteEncoder(source)
    assert (encoder.name, encoder.dim) == ("chain-embedding", 8)
    assert source.sent == []  # nobody was asked


def test_a_width_that_nobody_said_is_asked_for_once():
    source = LangChainLike()
    encoder = RemoteEncoder(source)
    assert (encoder.dim, encoder.dim) == (DIM, DIM)
    assert source.sent == [[" "]]
    told = RemoteEncoder(LangChainLike())
    told.encode(["a"])
    assert told.dim == DIM
    assert asyncio.run(RemoteEncoder(LangChainLike()).aencode([])).shape == (0, DIM)


def test_an_object_that_does_not_say_its_model_needs_the_name():
    silent = LlamaLike()
    silent.model_name = "unknown"  # the base class's default
    assert as_encoder(silent, name="another").name == "another"
    with pytest.raises(ConfigurationError, match="name='text-embedding-3-small'"):
        RemoteEncoder(OpenAILike())
    assert as_encoder(OpenAILike(), name="text-embedding-3-small").name == "text-embedding-3-small"
    assert as_encoder(LangChainLike(), name="another").name == "chain-embedding"  # the object knows better
    assert RemoteEncoder(LangChainLike(), name="another").name == "another"  # unless it is said outright


@pytest.mark.parametrize(
    "arguments",
    [
        {"dim": 0},
        {"dim": 7.5},
        {"dim": True},
        {"batch_size": 0},
        {"batch_size": 2.5},
        {"max_characters": 1},
        {"name": 5},
    ],
)
def test_numbers_out_of_range_are_refused(arguments):
    with pytest.raises(ConfigurationError):
        RemoteEncoder(LangChainLike(), **arguments)


def test_a_width_other_than_the_objects_is_refused():
    source = LangChainLike()
    source.dimensions = 256
    with pytest.raises(ConfigurationError, match="256"):
        RemoteEncoder(source, dim=1536)


def test_the_digest_tells_models_and_widths_apart():
    digests = {RemoteEncoder(vectors, name=name, dim=dim).digest for name in ("a", "b") for dim in (8, 9)}
    assert len(digests) == 4
    assert RemoteEncoder(vectors, name="a", dim=8).digest == RemoteEncoder(LangChainLike(), name="a", dim=8).digest


# -- what is sent
def test_texts_go_in_batches_and_the_empty_one_as_a_space():
    source = LangChainLike()
    RemoteEncoder(source, batch_size=2).encode(["a", "", "b", "c", "d"])
    assert source.sent == [["a", " "], ["b", "c"], ["d"]]
    again = LangChainLike()
    asyncio.run(RemoteEncoder(again, batch_size=2).aencode(["a", "", "b", "c", "d"]))
    assert again.sent == source.sent


def test_long_texts_keep_both_ends_and_lone_surrogates_are_replaced():
    source = LangChainLike()
    RemoteEncoder(source, max_characters=10).encode(["begin" + "x" * 100 + "end!!", "\ud800"])
    assert source.sent == [["begi\nend!!"[:4] + "\nend!!", "\ufffd"]]


# -- failures
@pytest.mark.parametrize(
    ("error", "is_retryable"),
    [
        (StatusError(429), True),
        (StatusError(500), True),
        (StatusError(503), True),
        (StatusError(401), False),
        (StatusError(400), False),
        (TimeoutError("late"), True),
        (ConnectionRefusedError("refused"), True),
        (ValueError("a bug, with secret words"), False),
    ],
)
def test_a_failure_says_whether_trying_again_may_help_and_nothing_of_the_prompt(error, is_retryable):
    encoder = RemoteEncoder(LangChainLike(error=error), dim=DIM)
    for call in (lambda: encoder.encode(["secret words"]), lambda: asyncio.run(encoder.aencode(["secret words"]))):
        with pytest.raises(EncoderError) as caught:
            call()
        assert caught.value.is_retryable is is_retryable
        assert caught.value.__cause__ is error
        assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    ("answer", "message"),
    [
        (lambda texts: vectors(texts)[1:], "for 2 texts"),
        (lambda texts: [[1.0], [1.0, 2.0]], "one width"),
        (lambda texts: None, "gave shape|one width"),
        (lambda texts: [["x"], ["y"]], "one width"),
        (lambda texts: [[1.0] * 7] * len(texts), "7 dimensions, not 8"),
        (lambda texts: [[float("nan")] * DIM] * len(texts), "not finite"),
    ],
)
def test_vectors_that_are_none_are_an_encoder_error(answer, message):
    encoder = RemoteEncoder(LangChainLike(answer=answer), dim=DIM)
    with pytest.raises(EncoderError, match=message):
        encoder.encode(["a", "b"])
    with pytest.raises(EncoderError, match=message):
        asyncio.run(encoder.aencode(["a", "b"]))


# -- in a router
def make_router(encoder):
    rng = np.random.default_rng(1)
    return MatrixFactorizationRouter(
        encoder=encoder,
        model_vectors=rng.normal(size=(2, 4)),
        projection=rng.normal(size=(4, DIM)),
        classifier=rng.normal(size=4),
        models=("large", "small"),
        strong="large",
        weak="small",
    )


def test_a_saved_router_keeps_name_and_width_and_loads_with_the_object_again(tmp_path):
    router = make_router(RemoteEncoder(LangChainLike(), dim=DIM))
    router.save(tmp_path / "r")
    kept = json.loads((tmp_path / "r" / "config.json").read_text())["encoder"]
    assert (kept["name"], kept["dim"]) == ("chain-embedding", DIM)
    with pytest.raises(ConfigurationError, match=r"'chain-embedding' \(8 dimensions\).*give encoder="):
        load_router(tmp_path / "r")
    loaded = load_router(tmp_path / "r", encoder=LangChainLike())
    np.testing.assert_array_equal(loaded.win_rate(["a", "b"]), router.win_rate(["a", "b"]))
    # neither an OpenAI client nor a function says its model: it is taken at the caller's word
    np.testing.assert_array_equal(
        load_router(tmp_path / "r", encoder=OpenAILike()).win_rate(["a"]), router.win_rate(["a"])
    )
    np.testing.assert_array_equal(load_router(tmp_path / "r", encoder=vectors).win_rate(["a"]), router.win_rate(["a"]))
    with pytest.raises(RouterFormatError, match=r"'chain-embedding'.*'llama-embedding'"):
        load_router(tmp_path / "r", encoder=LlamaLike())
    with pytest.raises(RouterFormatError, match="nonsense"):
        load_router(tmp_path / "r", encoder=HashingEncoder(DIM))


async def test_a_router_awaits_the_service_itself_and_does_its_arithmetic_elsewhere():
    source = LangChainLike()
    router = make_router(RemoteEncoder(source, dim=DIM))
    assert router.is_async
    np.testing.assert_array_equal(await router.awin_rate(["a", "b"]), router.win_rate(["a", "b"]))
    assert source.threads[0] is threading.main_thread()
    assert (await router.awin_rate([])).shape == (0,)
    decision = (await RoutingPolicy(router, threshold=0.5).adecide([RouteRequest(text="a")]))[0]
    assert decision.win_rate == pytest.approx(router.win_rate(["a"])[0])


async def test_a_slow_service_leaves_the_event_loop_free():
    entered, may_answer = asyncio.Event(), asyncio.Event()

    async def embed(texts):
        entered.set()
        await may_answer.wait()
        return vectors(texts)

    policy = RoutingPolicy(make_router(RemoteEncoder(embed, name="m", dim=DIM)), threshold=0.5)
    deciding = asyncio.create_task(policy.adecide([RouteRequest(text="a")]))
    await entered.wait()  # reached only because the loop goes on
    may_answer.set()
    assert (await deciding)[0].reason == "score"


async def test_a_service_that_is_late_or_busy_sends_the_call_strong():
    async def never(texts):
        await asyncio.Event().wait()

    late = RoutingPolicy(
        make_router(RemoteEncoder(never, name="m", dim=DIM)), threshold=0.5, router_timeout_s=0.01, on_error="strong"
    )
    busy = RoutingPolicy(make_router(RemoteEncoder(LangChainLike(error=StatusError(429)), dim=DIM)), threshold=0.5)
    for policy, error in ((late, "ScoringError"), (busy, "EncoderError")):
        decision = (await policy.adecide([RouteRequest(text="a")]))[0]
        assert (decision.route, decision.reason) == ("strong", "scorer_error")
        assert decision.error.startswith(error)


def test_a_copy_of_a_router_shares_the_client():
    class Uncopyable(LangChainLike):
        def __deepcopy__(self, memo):
            raise TypeError("locks cannot be copied")

    router = make_router(RemoteEncoder(Uncopyable(), dim=DIM))
    assert copy.deepcopy(router).encoder is router.encoder


# -- real clients over HTTP
SMALL = "text-embedding-3-small"


@pytest.fixture
async def http():
    """HTTP clients to lend: those that the libraries make for themselves stay open."""
    httpx = pytest.importorskip("httpx")
    with httpx.Client() as sync:
        async with httpx.AsyncClient() as asynchronous:
            yield sync, asynchronous


def openai_client(server, http):
    openai = pytest.importorskip("openai")
    return openai.OpenAI(base_url=server.url, api_key="none", max_retries=0, http_client=http[0])


def openai_async_client(server, http):
    openai = pytest.importorskip("openai")
    return openai.AsyncOpenAI(base_url=server.url, api_key="none", max_retries=0, http_client=http[1])


def langchain_embeddings(server, http):
    langchain_openai = pytest.importorskip("langchain_openai")
    return langchain_openai.OpenAIEmbeddings(
        model=SMALL,
        base_url=server.url,
        api_key="none",
        max_retries=0,
        check_embedding_ctx_length=False,  # else it sends token ids, and tiktoken downloads a vocabulary
        http_client=http[0],
        http_async_client=http[1],
    )


def llama_index_embedding(server, http):
    module = pytest.importorskip("llama_index.embeddings.openai")
    return module.OpenAIEmbedding(
        model=SMALL,
        api_base=server.url,
        api_key="none",
        max_retries=1,
        http_client=http[0],
        async_http_client=http[1],
    )


def llama_index_like_embedding(server, http):
    module = pytest.importorskip("llama_index.embeddings.openai_like")
    return module.OpenAILikeEmbedding(
        model_name=SMALL,
        api_base=server.url,
        api_key="none",
        max_retries=1,
        http_client=http[0],
        async_http_client=http[1],
    )


FRAMEWORKS = [langchain_embeddings, llama_index_embedding, llama_index_like_embedding]


async def both_ways(encoder, texts):
    """What each way of calling gives; None for one that the client does not have."""
    sync = None if encoder._calls.sync is None else await asyncio.to_thread(encoder.encode, texts)
    return [each for each in (sync, await encoder.aencode(texts)) if each is not None]


@pytest.mark.parametrize("make", [openai_client, openai_async_client, *FRAMEWORKS])
async def test_real_clients_give_the_endpoints_vectors(make, loopback, http):
    encoder = as_encoder(make(loopback, http), name=SMALL, dim=1536)
    assert (encoder.name, encoder.dim) == (SMALL, 1536)
    assert encoder.is_async is (make is not openai_client)
    texts = ["What is 2 + 2?", "", "Prove it."]
    expected = np.stack([loopback.vector(text or " ") for text in texts])
    for given in await both_ways(encoder, texts):
        np.testing.assert_allclose(given, expected, atol=1e-6)
    assert {request["model"] for request in loopback.requests} == {SMALL}


@pytest.mark.parametrize(("status", "is_retryable"), [(429, True), (500, True), (401, False)])
@pytest.mark.parametrize("make", [openai_client, openai_async_client, *FRAMEWORKS])
async def test_real_clients_failures_are_read_by_status(make, loopback, http, status, is_retryable):
    loopback.reply = lambda body: Reply(status=status)
    encoder = as_encoder(make(loopback, http), name=SMALL, dim=1536)
    calls = [encoder.aencode(["secret words"])]
    if encoder._calls.sync is not None:
        calls.append(asyncio.to_thread(encoder.encode, ["secret words"]))
    for error in await asyncio.gather(*calls, return_exceptions=True):
        assert isinstance(error, EncoderError)
        assert error.is_retryable is is_retryable
        assert "secret" not in str(error)


async def test_an_endpoint_out_of_reach_may_be_tried_again(loopback, http):
    client = openai_client(loopback, http)
    loopback.__exit__(None, None, None)
    with pytest.raises(EncoderError) as caught:
        RemoteEncoder(client, name=SMALL, dim=1536).encode(["a"])
    assert caught.value.is_retryable


# -- by name
def test_default_is_the_embedded_routers_own_encoder():
    assert resolve_encoder("default").digest == load_router("default").encoder.digest


def test_hashing_comes_in_any_width():
    assert resolve_encoder("hashing").dim == HashingEncoder().dim
    assert resolve_encoder("hashing:96").dim == 96


def test_a_model2vec_folder_is_found_with_and_without_its_kind(static_folder):
    assert resolve_encoder(f"static:{static_folder}").digest == resolve_encoder(str(static_folder)).digest
    assert resolve_encoder(static_folder).dim == 16


def test_a_saved_router_lends_its_encoder(tmp_path):
    router = make_router(HashingEncoder(DIM))
    router.save(tmp_path / "r")
    assert resolve_encoder(tmp_path / "r").digest == router.encoder.digest
    load_router("random").save(tmp_path / "none")
    with pytest.raises(RouterFormatError, match="no encoder"):
        resolve_encoder(tmp_path / "none")
    make_router(RemoteEncoder(LangChainLike(), dim=DIM)).save(tmp_path / "remote")
    with pytest.raises(ConfigurationError, match="chain-embedding"):
        resolve_encoder(tmp_path / "remote")


@pytest.mark.parametrize(
    "wrong", ["", "hashing:x", "hashing:-1", "static:", "openai:", "no-such", "\x00", "x" * 5000, 3]
)
def test_a_name_that_is_none_lists_what_is_accepted(wrong):
    with pytest.raises(ConfigurationError, match=r"hashing:WIDTH|hashing:1024"):
        resolve_encoder(wrong)


def test_an_openai_model_is_reached_through_the_environment(loopback, monkeypatch):
    pytest.importorskip("openai")
    monkeypatch.setenv("OPENAI_BASE_URL", loopback.url)
    monkeypatch.setenv("OPENAI_API_KEY", "none")
    encoder = resolve_encoder("openai:text-embedding-3-small")
    np.testing.assert_allclose(encoder.encode(["a"]), [loopback.vector("a")], atol=1e-6)
    encoder._calls.sync.args[0].__self__._client.close()
    monkeypatch.delenv("OPENAI_API_KEY")
    with pytest.raises(ConfigurationError, match="api_key|API key|OPENAI_API_KEY"):
        resolve_encoder("openai:text-embedding-3-small")


def test_a_transformer_is_loaded_by_what_stands_behind_the_colon(monkeypatch):
    monkeypatch.setattr(ENCODERS, "load", lambda kind: lambda model: (kind, model))
    assert resolve_encoder("transformer:owner/name") == ("transformer", "owner/name")
    assert resolve_encoder("transformer:C:/models/x") == ("transformer", "C:/models/x")
