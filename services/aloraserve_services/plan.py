"""The parts of a fleet, worked out from its settings by each of its processes on its own machine.

Gateways and replicas make the same plan because they have the same settings; the directory refuses a replica whose key
space is another one.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import aloraserve
from aloraserve.adapters import (
    AdapterLimits,
    AdapterReader,
    AdapterRegistry,
    AdapterStore,
    AdapterVersion,
    BaseShape,
    FolderRegistry,
    JoinedRegistry,
    StaticRegistry,
)
from aloraserve.adapters.catalog.ingested import Ingest
from aloraserve.adapters.catalog.registry import CatalogRegistry
from aloraserve.adapters.catalog.view import CatalogView
from aloraserve.blocks import KeySpace
from aloraserve.directory.redis import RedisDirectory
from aloraserve.engine_model import calibration
from aloraserve.engine_model.calibration import Calibration
from aloraserve.errors import SettingsError
from aloraserve.limits.redis import RedisLimits
from aloraserve.routing.scheduling import Scheduling
from aloraserve.savings.redis import RedisLedger
from aloraserve.scaling.redis import RedisBoard
from aloraserve.serving.intrinsics.form_check import form_fault
from aloraserve.settings import Settings
from aloraserve.telemetry.redis_endpoints import RedisEndpoints
from aloraserve.usage.redis import UsageLedger
from aloraserve_services import stores
from aloraserve_services.adapter_catalog import catalog_backup, catalogued_versions, open_catalog
from aloraserve_services.extras import require
from aloraserve_services.models.hardware import Dtype, is_cpu_engine, preferred_dtype, runs_on_cpu
from aloraserve_services.models.sizes import check_sizes

CPU_BLOCK_TOKENS = 32
SIMULATED = "simulated engine"
"""Stands for the plugin in a simulated fleet's key space, so that no real replica joins one."""
WAITING_ROOM = 4
"""How many times its running requests an engine replica takes in; the rest wait in the gateways."""
LIMITS_TIMEOUT_S = 0.25
"""What a call waits at most for the store of limits, before its gateway goes by its own share of them."""
_SAMPLES = 16
_SAMPLE_BYTES = 1 << 16


@dataclass(frozen=True)
class FleetPlan:
    """Everything that gateways and replicas must agree on.

    Args:
        settings: as given, with what was found in the place of what they left open.
        served_name: the base model's name in the API.
        model_path: its folder.
        dtype: of its weights and KV cache.
        keyspace: what block keys belong to.
        adapters_dir: folder of the adapters, None for a fleet without.
        limits: what adapters may need of the engines, None for a fleet without adapters.
        calibration: of simulated engines; None asks for vLLM's.
    """

    settings: Settings
    served_name: str
    model_path: Path
    dtype: Dtype
    keyspace: KeySpace
    adapters_dir: Path | None = None
    limits: AdapterLimits | None = None
    calibration: Calibration | None = None

    @property
    def max_requests(self) -> int:
        """Requests that one engine runs at once."""
        return self.settings.max_num_seqs if self.calibration is None else self.calibration.max_num_seqs

    @property
    def fingerprint(self) -> str:
        """What answers have as ``system_fingerprint``: another one where the release, model or tokenizer is another."""
        return f"aloraserve-{aloraserve.__version__}-{self.keyspace.fingerprint[:8]}"

    @property
    def scheduling(self) -> Scheduling:
        """The order in which each engine begins the calls that wait in it."""
        return Scheduling(self.settings.scheduling_policy, self.settings.priority_ageing)

    @property
    def capacity(self) -> int:
        """Requests that one engine replica takes in, running and waiting."""
        return WAITING_ROOM * self.max_requests

    @property
    def max_calls(self) -> int:
        """Calls that one gateway has in progress at once: all that the engines take in, however many
        there may be, and its own waiting room."""
        return self.settings.most_replicas * self.capacity + self.settings.max_queued

    def open_directory(
        self, cell: int, on_unreadable: Callable[[], None] = lambda: None, *, application: str = ""
    ) -> RedisDirectory:
        """Return a client of a cell's directory; gateways and replicas have to look in the same place.

        Args:
            cell: which.
            application: see :func:`~aloraserve_services.stores.open_directory`.
            on_unreadable: called for each record in it that cannot be read.
        """
        return stores.open_directory(self.settings, cell, on_unreadable, application=application)

    def open_endpoints(self) -> RedisEndpoints:
        """Return a client of the fleet's list of metrics endpoints, which lies beside the directory."""
        return stores.open_endpoints(self.settings)

    def open_board(self, application: str) -> RedisBoard:
        """Return a client of the fleet's scaling board, which lies beside the directory.

        Args:
            application: see :func:`~aloraserve_services.node.fleet_application`.
        """
        return stores.open_board(self.settings, application)

    def open_ledger(self) -> RedisLedger:
        """Return a client of the fleet's savings ledger, which lies beside the directory."""
        return RedisLedger.from_url(self.settings.redis_address, namespace=self.settings.namespace)

    def open_usage(self) -> UsageLedger:
        """Return a client of the fleet's ledger of tenants' use, which lies beside the directory."""
        return UsageLedger.from_url(self.settings.redis_address, namespace=self.settings.namespace)

    def open_limits(self) -> RedisLimits:
        """Return a client of the fleet's store of limits, which lies beside the directory."""
        return RedisLimits.from_url(
            self.settings.redis_address, namespace=self.settings.namespace, timeout_s=LIMITS_TIMEOUT_S
        )

    def open_store(self) -> AdapterStore:
        """Return the store of adapters, which all processes of the fleet share that see the same folder."""
        return AdapterStore(self.settings.adapter_snapshots, self.settings.namespace)

    @property
    def base_fingerprint(self) -> str:
        """What stands for the base model's content, whatever its dtype."""
        return self.keyspace.model.rpartition("-")[0]

    def open_registry(self) -> AdapterRegistry:
        """Return this process's registry of the fleet's adapters; engines load its versions from the store.

        Its folder has been read; its catalog, which lies in the fleet's Redis, has not, until ``begin``.

        Raises:
            SettingsError: the adapters' folder cannot be read.
        """
        return self._open_folder() if self.settings.redis_url is None else self.open_joined_registry()

    def open_joined_registry(self, *, keeps_catalog: bool = False) -> JoinedRegistry:
        """Return the registry of a fleet with a Redis.

        Args:
            keeps_catalog: whether this process has a copy of the catalog on the disk, and puts back what is lost.

        Raises:
            SettingsError: see :meth:`open_registry`.
        """
        catalog = open_catalog(self.settings)
        registry = CatalogRegistry(
            catalog,
            CatalogView(catalog, restores=keeps_catalog),
            Ingest(self.open_store(), self.base_fingerprint, self.limits),
            base_names=[self.served_name],
            backup=catalog_backup(self.settings) if keeps_catalog else None,
        )
        return JoinedRegistry(registry, self._open_folder(), base_names=[self.served_name])

    def open_reader(self) -> AdapterReader:
        """Return what checks adapters for this fleet's engines."""
        return AdapterReader(
            base=BaseShape.read(self.model_path),
            base_names=(self.served_name,),
            max_rank=self.settings.max_lora_rank,
            limits=self.limits,
            store=self.open_store(),
            form_fault=form_fault,
        )

    def _open_folder(self) -> AdapterRegistry:
        if self.adapters_dir is None:
            return StaticRegistry(base_names=[self.served_name])
        return FolderRegistry(self.adapters_dir, self.open_reader(), read_every_s=self.settings.adapters_poll_s)


def require_engine(settings: Settings) -> None:
    """Make sure that the library of the settings' engine is installed here.

    Raises:
        StartError: it is not.
        SettingsError: it is vLLM's build for another device.
    """
    if settings.engine != "vllm":
        return
    require("gpu", "the engine vllm", "vllm")
    if runs_on_cpu(settings.device) != is_cpu_engine():
        build = "CPUs" if is_cpu_engine() else "GPUs"
        raise SettingsError(f"device is {settings.device!r}; the vLLM that is installed here is the build for {build}")


def check_engine(settings: Settings) -> Calibration | None:
    """Return the calibration of the settings' simulated engine, None for vLLM's.

    Raises:
        SettingsError: the calibration is not there, or the engine cannot take the block size.
    """
    if settings.engine == "simulated":
        return calibration.load(settings.calibration)
    if runs_on_cpu(settings.device) and settings.block_tokens % CPU_BLOCK_TOKENS:
        raise SettingsError(
            f"block_tokens is {settings.block_tokens}; on a CPU vLLM's attention takes multiples of {CPU_BLOCK_TOKENS}"
        )
    return None


def make_plan(
    settings: Settings,
    *,
    adapters_dir: Callable[[Path], Path | None] | None = None,
    progress: Callable[[str], None] | None = None,
) -> FleetPlan:
    """Resolve the model, read the adapters for what engines need, and derive the key space.

    Args:
        settings: see :class:`~aloraserve.settings.Settings`.
        adapters_dir: makes the adapters' folder for a model's folder, if the settings name none; None for no adapters.
        progress: called with what takes long.

    Raises:
        SettingsError: the model, the adapters' folder or the calibration is not there, or the engine cannot take the
            block size, the context's length or the KV cache's size.
        StartError: the packaged model cannot be converted.
    """
    from aloraserve_services.models.model_files import resolve_model

    simulated = check_engine(settings)
    dtype: Dtype = preferred_dtype(device=settings.device) if settings.dtype == "auto" else settings.dtype
    found_name, model_path = resolve_model(settings.model, settings.state_dir, dtype, progress=progress)
    model_path = _local(model_path)
    if simulated is None:
        check_sizes(settings, model_path, dtype)
    name = settings.served_name or found_name
    folder = settings.adapters_dir or (adapters_dir(model_path) if adapters_dir else None)
    folder = None if folder is None else folder.absolute()
    fingerprint = content_digest(model_path, ("*.safetensors", "config.json"))
    limits = _limits(settings, folder, model_path, name, fingerprint)
    found: dict[str, Any] = {
        "model": str(model_path),
        "served_name": name,
        "dtype": dtype,
        "adapters_dir": folder,
    }
    if limits is not None:
        # A process that starts later has the same room, whatever is in the folder by then.
        room = {"reserve_modules": tuple(sorted(limits.modules)), "reserve_rank": limits.rank}
        found |= room | {"reserve_exactly": True}
    return FleetPlan(
        settings=settings.model_copy(update=found),
        served_name=name,
        model_path=model_path,
        dtype=dtype,
        keyspace=KeySpace(
            model=f"{fingerprint}-{dtype}{_weights(settings)}",
            tokenizer=content_digest(model_path, ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja")),
            block_tokens=settings.block_tokens,
            plugin=SIMULATED if simulated else f"vllm-alora {version('vllm-alora')}",
        ),
        adapters_dir=folder,
        limits=limits,
        calibration=simulated,
    )


def _weights(settings: Settings) -> str:
    """Return what keeps replicas with other weights of the same model out of a fleet's directory."""
    quantization = settings.engine_args.get("quantization")
    return "" if quantization is None else f"+{quantization.replace('-', '_')}"


def _local(model_path: Path) -> Path:
    """Return the folder of a model, fetched from the hub if it is a hub id."""
    if (model_path / "config.json").is_file():
        return model_path
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(str(model_path), allow_patterns=["*.json", "*.safetensors", "*.jinja"]))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise SettingsError(f"model {str(model_path)!r} cannot be fetched: {error}") from None


def _limits(
    settings: Settings, folder: Path | None, model_path: Path, served_name: str, fingerprint: str
) -> AdapterLimits | None:
    """Return what the fleet's engines have room for, from the adapters that there are now and from the settings.

    None without a folder, a catalog's adapters and a reserve: room for adapters costs every call.
    """
    versions = [] if settings.reserve_exactly else catalogued_versions(settings, fingerprint)
    if folder is None and not (versions or settings.reserve_modules or settings.reserve_rank):
        return None
    base = BaseShape.read(model_path)
    linears = list(base.linears())
    wrong = next((name for name in settings.reserve_modules if name not in linears), None)
    if wrong is not None:
        raise SettingsError(f"reserve_modules has {wrong!r}; accepted are {', '.join(linears)}")
    if settings.reserve_exactly:
        return AdapterLimits.around((), settings.reserve_modules, settings.reserve_rank)
    versions += _dropped(settings, folder, base, served_name)
    # Without adapters nothing says what will come.
    modules = settings.reserve_modules or (() if versions else linears)
    rank = settings.reserve_rank or (0 if versions else settings.max_lora_rank)
    return AdapterLimits.around(versions, modules, rank)


def _dropped(settings: Settings, folder: Path | None, base: BaseShape, served_name: str) -> Sequence[AdapterVersion]:
    if folder is None:
        return ()
    reader = AdapterReader(base=base, base_names=(served_name,), max_rank=settings.max_lora_rank)
    return FolderRegistry(folder, reader).all()


def content_digest(folder: Path, patterns: tuple[str, ...]) -> str:
    """Return a digest that differs between models: whole small files, and samples of large ones with their size.

    Reading tens of gigabytes at each start would cost minutes; weights that agree in size and in sixteen evenly
    spaced samples of 64 KiB in every file are taken to be equal.
    """
    digest = hashlib.blake2b(digest_size=12)
    for path in sorted(found for pattern in patterns for found in folder.glob(pattern)):
        size = path.stat().st_size
        digest.update(f"{path.name}\0{size}\0".encode())
        step = max(size // _SAMPLES, _SAMPLE_BYTES)
        with path.open("rb") as file:
            for start in range(0, size, step):
                file.seek(start)
                digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()
