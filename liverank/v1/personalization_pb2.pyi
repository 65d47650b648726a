from liverank.v1 import decision_pb2 as _decision_pb2
from liverank.v1 import event_pb2 as _event_pb2
from google.protobuf.internal import containers as _containers
from google.protobuf.internal import enum_type_wrapper as _enum_type_wrapper
from google.protobuf import descriptor as _descriptor
from google.protobuf import message as _message
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Optional as _Optional, Union as _Union

DESCRIPTOR: _descriptor.FileDescriptor

class Consent(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    CONSENT_UNSPECIFIED: _ClassVar[Consent]
    CONSENT_GRANTED: _ClassVar[Consent]
    CONSENT_DENIED: _ClassVar[Consent]

class Layer(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
    __slots__ = ()
    LAYER_UNSPECIFIED: _ClassVar[Layer]
    LAYER_POSTERIOR: _ClassVar[Layer]
    LAYER_USER_FEATURES: _ClassVar[Layer]
    LAYER_USER_VECTORS: _ClassVar[Layer]
    LAYER_MODEL: _ClassVar[Layer]
CONSENT_UNSPECIFIED: Consent
CONSENT_GRANTED: Consent
CONSENT_DENIED: Consent
LAYER_UNSPECIFIED: Layer
LAYER_POSTERIOR: Layer
LAYER_USER_FEATURES: Layer
LAYER_USER_VECTORS: Layer
LAYER_MODEL: Layer

class Candidate(_message.Message):
    __slots__ = ("item_id", "scores")
    class ScoresEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    scores: _containers.ScalarMap[str, float]
    def __init__(self, item_id: _Optional[str] = ..., scores: _Optional[_Mapping[str, float]] = ...) -> None: ...

class Condition(_message.Message):
    __slots__ = ("field", "operator", "values", "number")
    class Operator(int, metaclass=_enum_type_wrapper.EnumTypeWrapper):
        __slots__ = ()
        OPERATOR_UNSPECIFIED: _ClassVar[Condition.Operator]
        OPERATOR_IN: _ClassVar[Condition.Operator]
        OPERATOR_NOT_IN: _ClassVar[Condition.Operator]
        OPERATOR_AT_MOST: _ClassVar[Condition.Operator]
        OPERATOR_AT_LEAST: _ClassVar[Condition.Operator]
    OPERATOR_UNSPECIFIED: Condition.Operator
    OPERATOR_IN: Condition.Operator
    OPERATOR_NOT_IN: Condition.Operator
    OPERATOR_AT_MOST: Condition.Operator
    OPERATOR_AT_LEAST: Condition.Operator
    FIELD_FIELD_NUMBER: _ClassVar[int]
    OPERATOR_FIELD_NUMBER: _ClassVar[int]
    VALUES_FIELD_NUMBER: _ClassVar[int]
    NUMBER_FIELD_NUMBER: _ClassVar[int]
    field: str
    operator: Condition.Operator
    values: _containers.RepeatedScalarFieldContainer[str]
    number: float
    def __init__(self, field: _Optional[str] = ..., operator: _Optional[_Union[Condition.Operator, str]] = ..., values: _Optional[_Iterable[str]] = ..., number: _Optional[float] = ...) -> None: ...

class Filter(_message.Message):
    __slots__ = ("conditions",)
    CONDITIONS_FIELD_NUMBER: _ClassVar[int]
    conditions: _containers.RepeatedCompositeFieldContainer[Condition]
    def __init__(self, conditions: _Optional[_Iterable[_Union[Condition, _Mapping]]] = ...) -> None: ...

class ShadowOptions(_message.Message):
    __slots__ = ("as_of_ms", "seed", "policy", "without", "greedy")
    AS_OF_MS_FIELD_NUMBER: _ClassVar[int]
    SEED_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    WITHOUT_FIELD_NUMBER: _ClassVar[int]
    GREEDY_FIELD_NUMBER: _ClassVar[int]
    as_of_ms: int
    seed: int
    policy: str
    without: _containers.RepeatedScalarFieldContainer[Layer]
    greedy: bool
    def __init__(self, as_of_ms: _Optional[int] = ..., seed: _Optional[int] = ..., policy: _Optional[str] = ..., without: _Optional[_Iterable[_Union[Layer, str]]] = ..., greedy: _Optional[bool] = ...) -> None: ...

class RankRequest(_message.Message):
    __slots__ = ("request_id", "user_id", "anonymous_id", "k", "surface", "context", "mode", "candidates", "exclude_item_ids", "filter", "consent", "debug", "explain", "shadow")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    USER_ID_FIELD_NUMBER: _ClassVar[int]
    ANONYMOUS_ID_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    SURFACE_FIELD_NUMBER: _ClassVar[int]
    CONTEXT_FIELD_NUMBER: _ClassVar[int]
    MODE_FIELD_NUMBER: _ClassVar[int]
    CANDIDATES_FIELD_NUMBER: _ClassVar[int]
    EXCLUDE_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    CONSENT_FIELD_NUMBER: _ClassVar[int]
    DEBUG_FIELD_NUMBER: _ClassVar[int]
    EXPLAIN_FIELD_NUMBER: _ClassVar[int]
    SHADOW_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    user_id: str
    anonymous_id: str
    k: int
    surface: str
    context: _event_pb2.Context
    mode: _decision_pb2.Mode
    candidates: _containers.RepeatedCompositeFieldContainer[Candidate]
    exclude_item_ids: _containers.RepeatedScalarFieldContainer[str]
    filter: Filter
    consent: Consent
    debug: bool
    explain: bool
    shadow: ShadowOptions
    def __init__(self, request_id: _Optional[str] = ..., user_id: _Optional[str] = ..., anonymous_id: _Optional[str] = ..., k: _Optional[int] = ..., surface: _Optional[str] = ..., context: _Optional[_Union[_event_pb2.Context, _Mapping]] = ..., mode: _Optional[_Union[_decision_pb2.Mode, str]] = ..., candidates: _Optional[_Iterable[_Union[Candidate, _Mapping]]] = ..., exclude_item_ids: _Optional[_Iterable[str]] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ..., consent: _Optional[_Union[Consent, str]] = ..., debug: _Optional[bool] = ..., explain: _Optional[bool] = ..., shadow: _Optional[_Union[ShadowOptions, _Mapping]] = ...) -> None: ...

class RankedItem(_message.Message):
    __slots__ = ("item_id", "position", "score", "propensity", "explored", "pinned", "sources", "explanation", "variant_id", "variant_propensity")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    EXPLANATION_FIELD_NUMBER: _ClassVar[int]
    VARIANT_ID_FIELD_NUMBER: _ClassVar[int]
    VARIANT_PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: int
    score: float
    propensity: float
    explored: bool
    pinned: bool
    sources: _containers.RepeatedScalarFieldContainer[str]
    explanation: ItemExplanation
    variant_id: str
    variant_propensity: float
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[int] = ..., score: _Optional[float] = ..., propensity: _Optional[float] = ..., explored: _Optional[bool] = ..., pinned: _Optional[bool] = ..., sources: _Optional[_Iterable[str]] = ..., explanation: _Optional[_Union[ItemExplanation, _Mapping]] = ..., variant_id: _Optional[str] = ..., variant_propensity: _Optional[float] = ...) -> None: ...

class Freshness(_message.Message):
    __slots__ = ("newest_event_ts_ms", "newest_event_age_ms", "vector_age_ms", "posterior_age_ms")
    NEWEST_EVENT_TS_MS_FIELD_NUMBER: _ClassVar[int]
    NEWEST_EVENT_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    VECTOR_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_AGE_MS_FIELD_NUMBER: _ClassVar[int]
    newest_event_ts_ms: int
    newest_event_age_ms: int
    vector_age_ms: int
    posterior_age_ms: int
    def __init__(self, newest_event_ts_ms: _Optional[int] = ..., newest_event_age_ms: _Optional[int] = ..., vector_age_ms: _Optional[int] = ..., posterior_age_ms: _Optional[int] = ...) -> None: ...

class RankDebug(_message.Message):
    __slots__ = ("stage_ms", "counts", "user_state", "feature_ages_ms", "unknown_item_ids")
    class StageMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    class CountsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    class FeatureAgesMsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: int
        def __init__(self, key: _Optional[str] = ..., value: _Optional[int] = ...) -> None: ...
    STAGE_MS_FIELD_NUMBER: _ClassVar[int]
    COUNTS_FIELD_NUMBER: _ClassVar[int]
    USER_STATE_FIELD_NUMBER: _ClassVar[int]
    FEATURE_AGES_MS_FIELD_NUMBER: _ClassVar[int]
    UNKNOWN_ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    stage_ms: _containers.ScalarMap[str, float]
    counts: _containers.ScalarMap[str, int]
    user_state: str
    feature_ages_ms: _containers.ScalarMap[str, int]
    unknown_item_ids: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, stage_ms: _Optional[_Mapping[str, float]] = ..., counts: _Optional[_Mapping[str, int]] = ..., user_state: _Optional[str] = ..., feature_ages_ms: _Optional[_Mapping[str, int]] = ..., unknown_item_ids: _Optional[_Iterable[str]] = ...) -> None: ...

class RankReply(_message.Message):
    __slots__ = ("request_id", "items", "policy", "arm", "model", "rungs", "freshness", "namespace", "debug", "not_ranked")
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    POLICY_FIELD_NUMBER: _ClassVar[int]
    ARM_FIELD_NUMBER: _ClassVar[int]
    MODEL_FIELD_NUMBER: _ClassVar[int]
    RUNGS_FIELD_NUMBER: _ClassVar[int]
    FRESHNESS_FIELD_NUMBER: _ClassVar[int]
    NAMESPACE_FIELD_NUMBER: _ClassVar[int]
    DEBUG_FIELD_NUMBER: _ClassVar[int]
    NOT_RANKED_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    items: _containers.RepeatedCompositeFieldContainer[RankedItem]
    policy: str
    arm: str
    model: str
    rungs: _containers.RepeatedScalarFieldContainer[str]
    freshness: Freshness
    namespace: str
    debug: RankDebug
    not_ranked: _containers.RepeatedCompositeFieldContainer[NotRanked]
    def __init__(self, request_id: _Optional[str] = ..., items: _Optional[_Iterable[_Union[RankedItem, _Mapping]]] = ..., policy: _Optional[str] = ..., arm: _Optional[str] = ..., model: _Optional[str] = ..., rungs: _Optional[_Iterable[str]] = ..., freshness: _Optional[_Union[Freshness, _Mapping]] = ..., namespace: _Optional[str] = ..., debug: _Optional[_Union[RankDebug, _Mapping]] = ..., not_ranked: _Optional[_Iterable[_Union[NotRanked, _Mapping]]] = ...) -> None: ...

class NotRanked(_message.Message):
    __slots__ = ("item_id", "reason")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    reason: str
    def __init__(self, item_id: _Optional[str] = ..., reason: _Optional[str] = ...) -> None: ...

class SimilarRequest(_message.Message):
    __slots__ = ("item_ids", "k", "filter")
    ITEM_IDS_FIELD_NUMBER: _ClassVar[int]
    K_FIELD_NUMBER: _ClassVar[int]
    FILTER_FIELD_NUMBER: _ClassVar[int]
    item_ids: _containers.RepeatedScalarFieldContainer[str]
    k: int
    filter: Filter
    def __init__(self, item_ids: _Optional[_Iterable[str]] = ..., k: _Optional[int] = ..., filter: _Optional[_Union[Filter, _Mapping]] = ...) -> None: ...

class SimilarItem(_message.Message):
    __slots__ = ("item_id", "score", "sources")
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    score: float
    sources: _containers.RepeatedScalarFieldContainer[str]
    def __init__(self, item_id: _Optional[str] = ..., score: _Optional[float] = ..., sources: _Optional[_Iterable[str]] = ...) -> None: ...

class SimilarReply(_message.Message):
    __slots__ = ("items",)
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    items: _containers.RepeatedCompositeFieldContainer[SimilarItem]
    def __init__(self, items: _Optional[_Iterable[_Union[SimilarItem, _Mapping]]] = ...) -> None: ...

class TrackRequest(_message.Message):
    __slots__ = ("events", "idempotency_key")
    EVENTS_FIELD_NUMBER: _ClassVar[int]
    IDEMPOTENCY_KEY_FIELD_NUMBER: _ClassVar[int]
    events: _containers.RepeatedCompositeFieldContainer[_event_pb2.Event]
    idempotency_key: str
    def __init__(self, events: _Optional[_Iterable[_Union[_event_pb2.Event, _Mapping]]] = ..., idempotency_key: _Optional[str] = ...) -> None: ...

class Rejected(_message.Message):
    __slots__ = ("index", "reason", "detail")
    INDEX_FIELD_NUMBER: _ClassVar[int]
    REASON_FIELD_NUMBER: _ClassVar[int]
    DETAIL_FIELD_NUMBER: _ClassVar[int]
    index: int
    reason: str
    detail: str
    def __init__(self, index: _Optional[int] = ..., reason: _Optional[str] = ..., detail: _Optional[str] = ...) -> None: ...

class TrackReply(_message.Message):
    __slots__ = ("accepted", "rejected")
    ACCEPTED_FIELD_NUMBER: _ClassVar[int]
    REJECTED_FIELD_NUMBER: _ClassVar[int]
    accepted: int
    rejected: _containers.RepeatedCompositeFieldContainer[Rejected]
    def __init__(self, accepted: _Optional[int] = ..., rejected: _Optional[_Iterable[_Union[Rejected, _Mapping]]] = ...) -> None: ...

class ExplainRequest(_message.Message):
    __slots__ = ("request_id",)
    REQUEST_ID_FIELD_NUMBER: _ClassVar[int]
    request_id: str
    def __init__(self, request_id: _Optional[str] = ...) -> None: ...

class Contribution(_message.Message):
    __slots__ = ("feature", "value", "contribution")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTION_FIELD_NUMBER: _ClassVar[int]
    feature: str
    value: float
    contribution: float
    def __init__(self, feature: _Optional[str] = ..., value: _Optional[float] = ..., contribution: _Optional[float] = ...) -> None: ...

class FeatureValue(_message.Message):
    __slots__ = ("feature", "value")
    FEATURE_FIELD_NUMBER: _ClassVar[int]
    VALUE_FIELD_NUMBER: _ClassVar[int]
    feature: str
    value: float
    def __init__(self, feature: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...

class ItemExplanation(_message.Message):
    __slots__ = ("item_id", "position", "sources", "score", "heads", "propensity", "explored", "pinned", "posterior_mean", "posterior_sd", "raw_score", "bias", "contributions", "not_used")
    class HeadsEntry(_message.Message):
        __slots__ = ("key", "value")
        KEY_FIELD_NUMBER: _ClassVar[int]
        VALUE_FIELD_NUMBER: _ClassVar[int]
        key: str
        value: float
        def __init__(self, key: _Optional[str] = ..., value: _Optional[float] = ...) -> None: ...
    ITEM_ID_FIELD_NUMBER: _ClassVar[int]
    POSITION_FIELD_NUMBER: _ClassVar[int]
    SOURCES_FIELD_NUMBER: _ClassVar[int]
    SCORE_FIELD_NUMBER: _ClassVar[int]
    HEADS_FIELD_NUMBER: _ClassVar[int]
    PROPENSITY_FIELD_NUMBER: _ClassVar[int]
    EXPLORED_FIELD_NUMBER: _ClassVar[int]
    PINNED_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_MEAN_FIELD_NUMBER: _ClassVar[int]
    POSTERIOR_SD_FIELD_NUMBER: _ClassVar[int]
    RAW_SCORE_FIELD_NUMBER: _ClassVar[int]
    BIAS_FIELD_NUMBER: _ClassVar[int]
    CONTRIBUTIONS_FIELD_NUMBER: _ClassVar[int]
    NOT_USED_FIELD_NUMBER: _ClassVar[int]
    item_id: str
    position: int
    sources: _containers.RepeatedScalarFieldContainer[str]
    score: float
    heads: _containers.ScalarMap[str, float]
    propensity: float
    explored: bool
    pinned: bool
    posterior_mean: float
    posterior_sd: float
    raw_score: float
    bias: float
    contributions: _containers.RepeatedCompositeFieldContainer[Contribution]
    not_used: _containers.RepeatedCompositeFieldContainer[FeatureValue]
    def __init__(self, item_id: _Optional[str] = ..., position: _Optional[int] = ..., sources: _Optional[_Iterable[str]] = ..., score: _Optional[float] = ..., heads: _Optional[_Mapping[str, float]] = ..., propensity: _Optional[float] = ..., explored: _Optional[bool] = ..., pinned: _Optional[bool] = ..., posterior_mean: _Optional[float] = ..., posterior_sd: _Optional[float] = ..., raw_score: _Optional[float] = ..., bias: _Optional[float] = ..., contributions: _Optional[_Iterable[_Union[Contribution, _Mapping]]] = ..., not_used: _Optional[_Iterable[_Union[FeatureValue, _Mapping]]] = ...) -> None: ...

class ExplainReply(_message.Message):
    __slots__ = ("decision", "items")
    DECISION_FIELD_NUMBER: _ClassVar[int]
    ITEMS_FIELD_NUMBER: _ClassVar[int]
    decision: _decision_pb2.Decision
    items: _containers.RepeatedCompositeFieldContainer[ItemExplanation]
    def __init__(self, decision: _Optional[_Union[_decision_pb2.Decision, _Mapping]] = ..., items: _Optional[_Iterable[_Union[ItemExplanation, _Mapping]]] = ...) -> None: ...
