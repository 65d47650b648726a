from liverank.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Mode(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    MODE_UNSPECIFIED: _ClassVar[Mode]
    MODE_SERVE: _ClassVar[Mode]
    MODE_PREFETCH: _ClassVar[Mode]
    MODE_SHADOW: _ClassVar[Mode]
MODE_UNSPECIFIED: Mode
MODE_SERVE: Mode
MODE_PREFETCH: Mode
MODE_SHADOW: Mode

class Decision(_message.Message):
    __slots__ = ("request_id", "user_id", "decided_ts_ms", "as_of_ms", "surface", "mode", "context", "policy", "arm", "seed", "n_draws", "floor", "base_model", "schema", "snapshot", "feature_service", "feature_names", "heads", "head_weights", "feasible_size", "feasible_hash", "slots", "candidates", "rungs", "stage_ms", "newest_event_ts_ms", "drawn", "space", "user_state", "feature_ages_ms", "cap", "greedy_slots", "config_version", "k", "creator_cap", "category_cap", "near", "reserved_share", "registered_names", "variant_policy", "quotas")
    class StageMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class FeatureAgesMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    DECIDED_TS_MS_FIELD_NUMBER: _ClassVar[int]
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    N_DRAWS_FIELD_NUMBER: _ClassVar[int]
    FLOOR_FIELD_NUMBER: _ClassVar[int]
    BASE_MODEL_FIELD_NUMBER: _ClassVar[int]
    SCHEMA_FIELD_NUMBER: _ClassVar[int]
    SNAPSHOT_FIELD_NUMBER: _ClassVar[int]
    FEATURE_SERVICE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_NAMES_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    HEAD_WEIGHTS_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_SIZE_FIELD_NUMBER: _ClassVar[int]
    FEASIBLE_HASH_FIELD_NUMBER: _ClassVar[int]
    SLOTS_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    RUNGS_FIELD_NUMBER: _ClassVar[int]
    STAGE_MS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    DRAWN_FIELD_NUMBER: _ClassVar[int]
    SPACE_FIELD_NUMBER: _ClassVar[int]
    USER_STATE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_AGES_MS_FIELD_NUMBER: _ClassVar[int]
    CAP_FIELD_NUMBER: _ClassVar[int]
    GREEDY_SLOTS_FIELD_NUMBER: _ClassVar[int]
    CONFIG_VERSION_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    CREATOR_CAP_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_CAP_FIELD_NUMBER: _ClassVar[int]
    NEAR_FIELD_NUMBER: _ClassVar[int]
    RESERVED_SHARE_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_NAMES_FIELD_NUMBER: _ClassVar[int]
    VARIANT_POLICY_FIELD_NUMBER: _ClassVar[int]
    QUOTAS_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    decided_ts_ms: int
    as_of_ms: int
    surface: str
    mode: Mode
    context: _event_pb2.Context
    policy: str
    arm: str
    seed: int
    n_draws: int
    floor: float
    base_model: str
    schema: str
    snapshot: str
    feature_service: str
    feature_names: _containers.RepeatedScalarFieldContainer[str]
    heads: _containers.RepeatedScalarFieldContainer[str]
    head_weights: _containers.RepeatedScalarFieldContainer[float]
    feasible_size: int
    feasible_hash: bytes
    slots: _containers.RepeatedCompositeFieldContainer[DecisionSlot]
    candidates: _containers.RepeatedCompositeFieldContainer[DecisionCandidate]
    rungs: _containers.RepeatedScalarFieldContainer[str]
    stage_ms: _containers.ScalarMap[str, float]
    newest_event_ts_ms: int
    drawn: bool
    space: str
    user_state: str
    feature_ages_ms: _containers.ScalarMap[str, int]
    cap: float
    greedy_slots: int
    config_version: int
    k: int
    creator_cap: int
    category_cap: int
    near: _containers.RepeatedScalarFieldContainer[int]
    reserved_share: float
    registered_names: _containers.RepeatedScalarFieldContainer[str]
    variant_policy: str
    quotas: _containers.RepeatedCompositeFieldContainer[DecisionQuota]
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., decided_ts_ms: _Optional[int] = ..., as_of_ms: _Optional[int] = ..., surface: _Optional[str] = ..., mode: _Optional[_Union[Mode, str]] = ..., context: _Optional[_Union[_event_pb2.Context, _Mapping]] = ..., policy: _Optional[str] = ..., arm: _Optional[str] = ..., seed: _Optional[int] = ..., n_draws: _Optional[int] = ..., floor: _Optional[float] = ..., base_model: _Optional[str] = ..., schema: _Optional[str] = ..., snapshot: _Optional[str] = ..., feature_service: _Optional[str] = ..., feature_names: _Optional[_Iterable[str]] = ..., heads: _Optional[_Iterable[str]] = ..., head_weights: _Optional[_Iterable[float]] = ..., feasible_size: _Optional[int] = ..., feasible_hash: _Optional[bytes] = ..., slots: _Optional[_Iterable[_Union[DecisionSlot, _Mapping]]] = ..., candidates: _Optional[_Iterable[_Union[DecisionCandidate, _Mapping]]] = ..., rungs: _Optional[_Iterable[str]] = ..., stage_ms: _Optional[_Mapping[str, float]] = ..., newest_event_ts_ms: _Optional[int] = ..., drawn: _Optional[bool] = ..., space: _Optional[str] = ..., user_state: _Optional[str] = ..., feature_ages_ms: _Optional[_Mapping[str, int]] = ..., cap: _Optional[float] = ..., greedy_slots: _Optional[int] = ..., config_version: _Optional[int] = ..., k: _Optional[int] = ..., creator_cap: _Optional[int] = ..., category_cap: _Optional[int] = ..., near: _Optional[_Iterable[int]] = ..., reserved_share: _Optional[float] = ..., registered_names: _Optional[_Iterable[str]] = ..., variant_policy: _Optional[str] = ..., quotas: _Optional[_Iterable[_Union[DecisionQuota, _Mapping]]] = ...) -> None: ...

class DecisionQuota(_message.Message):
    __slots__ = ("name", "least", "most", "members")
    NAME_FIELD_NUMBER: _ClassVar[int]
    LEAST_FIELD_NUMBER: _ClassVar[int]
    MOST_FIELD_NUMBER: _ClassVar[int]
    MEMBERS_FIELD_NUMBER: _ClassVar[int]
    name: str
    least: int
    most: int
    members: _containers.RepeatedScalarFieldContainer[int]
    def __init__(self, name: _Optional[str] = ..., least: _Optional[int] = ..., most: _Optional[int] = ..., members: _Optional[_Iterable[int]] = ...) -> None: ...

class DecisionSlot(_message.Message):
    __slots__ = ("item_id", "propensity", "pinned", "explored", "score", "p_shown", "p_first", "phi", "posterior_mean", "posterior_sd", "features", "sources", "effective_floor", "catalogue_version", "n_feasible", "greedy_score", "budgeted", "registered", "category_name", "variant_id", "variant_propensity", "variants")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    P_SHOWN_FIELD_NUMBER: _ClassVar[int]
    P_FIRST_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_MEAN_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_SD_FIELD_NUMBER: _ClassVar[int]
    FEATURES_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    EFFECTIVE_FLOOR_FIELD_NUMBER: _ClassVar[int]
    CATALOGUE_VERSION_FIELD_NUMBER: _ClassVar[int]
    N_FEASIBLE_FIELD_NUMBER: _ClassVar[int]
    GREEDY_SCORE_FIELD_NUMBER: _ClassVar[int]
    BUDGETED_FIELD_NUMBER: _ClassVar[int]
    REGISTERED_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_NAME_FIELD_NUMBER: _ClassVar[int]
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    VARIANTS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    propensity: float
    pinned: bool
    explored: bool
    score: float
    p_shown: _containers.RepeatedScalarFieldContainer[float]
    p_first: _containers.RepeatedScalarFieldContainer[float]
    phi: _containers.RepeatedScalarFieldContainer[float]
    posterior_mean: float
    posterior_sd: float
    features: _containers.RepeatedScalarFieldContainer[float]
    sources: _containers.RepeatedScalarFieldContainer[str]
    effective_floor: float
    catalogue_version: int
    n_feasible: int
    greedy_score: float
    budgeted: bool
    registered: _containers.RepeatedScalarFieldContainer[float]
    category_name: str
    variant_id: str
    variant_propensity: float
    variants: _containers.RepeatedCompositeFieldContainer[VariantBelief]
    def __init__(self, item_id: _Optional[str] = ..., propensity: _Optional[float] = ..., pinned: _Optional[bool] = ..., explored: _Optional[bool] = ..., score: _Optional[float] = ..., p_shown: _Optional[_Iterable[float]] = ..., p_first: _Optional[_Iterable[float]] = ..., phi: _Optional[_Iterable[float]] = ..., posterior_mean: _Optional[float] = ..., posterior_sd: _Optional[float] = ..., features: _Optional[_Iterable[float]] = ..., sources: _Optional[_Iterable[str]] = ..., effective_floor: _Optional[float] = ..., catalogue_version: _Optional[int] = ..., n_feasible: _Optional[int] = ..., greedy_score: _Optional[float] = ..., budgeted: _Optional[bool] = ..., registered: _Optional[_Iterable[float]] = ..., category_name: _Optional[str] = ..., variant_id: _Optional[str] = ..., variant_propensity: _Optional[float] = ..., variants: _Optional[_Iterable[_Union[VariantBelief, _Mapping]]] = ...) -> None: ...

class VariantBelief(_message.Message):
    __slots__ = ("variant_id", "alpha", "beta")
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    ALPHA_FIELD_NUMBER: _ClassVar[int]
    BETA_FIELD_NUMBER: _ClassVar[int]
    variant_id: str
    alpha: float
    beta: float
    def __init__(self, variant_id: _Optional[str] = ..., alpha: _Optional[float] = ..., beta: _Optional[float] = ...) -> None: ...

class DecisionCandidate(_message.Message):
    __slots__ = ("item_id", "value", "phi", "p_first", "creator", "category", "unavailable", "not_explorable", "reserved", "category_name", "item_looks", "kind_looks")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    PHI_FIELD_NUMBER: _ClassVar[int]
    P_FIRST_FIELD_NUMBER: _ClassVar[int]
    CREATOR_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_FIELD_NUMBER: _ClassVar[int]
    UNAVAILABLE_FIELD_NUMBER: _ClassVar[int]
    NOT_EXPLORABLE_FIELD_NUMBER: _ClassVar[int]
    RESERVED_FIELD_NUMBER: _ClassVar[int]
    CATEGORY_NAME_FIELD_NUMBER: _ClassVar[int]
    ITEM_LOOKS_FIELD_NUMBER: _ClassVar[int]
    KIND_LOOKS_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    value: float
    phi: _containers.RepeatedScalarFieldContainer[float]
    p_first: _containers.RepeatedScalarFieldContainer[float]
    creator: int
    category: int
    unavailable: bool
    not_explorable: bool
    reserved: bool
    category_name: str
    item_looks: float
    kind_looks: float
    def __init__(self, item_id: _Optional[str] = ..., value: _Optional[float] = ..., phi: _Optional[_Iterable[float]] = ..., p_first: _Optional[_Iterable[float]] = ..., creator: _Optional[int] = ..., category: _Optional[int] = ..., unavailable: _Optional[bool] = ..., not_explorable: _Optional[bool] = ..., reserved: _Optional[bool] = ..., category_name: _Optional[str] = ..., item_looks: _Optional[float] = ..., kind_looks: _Optional[float] = ...) -> None: ...
