"""What differs between JAX versions, and all use of what JAX does not document.

Supported: jax 0.10.2 (the newest for Python 3.11) to the newest. Everything else in memjax
sees jaxprs, types and arrays through the functions of this room, by `_compat.<name>`.
"""

from memjax._compat.jaxprs import (
    INLINED_CALLS as INLINED_CALLS,
)
from memjax._compat.jaxprs import (
    JIT_PRIMITIVES as JIT_PRIMITIVES,
)
from memjax._compat.jaxprs import (
    Literal as Literal,
)
from memjax._compat.jaxprs import (
    ScanParts as ScanParts,
)
from memjax._compat.jaxprs import (
    as_function as as_function,
)
from memjax._compat.jaxprs import (
    call_name as call_name,
)
from memjax._compat.jaxprs import (
    contains as contains,
)
from memjax._compat.jaxprs import (
    count_eqns as count_eqns,
)
from memjax._compat.jaxprs import (
    dce_jaxpr as dce_jaxpr,
)
from memjax._compat.jaxprs import (
    inlinable_body as inlinable_body,
)
from memjax._compat.jaxprs import (
    jaxpr_parts as jaxpr_parts,
)
from memjax._compat.jaxprs import (
    loop_length as loop_length,
)
from memjax._compat.jaxprs import (
    mesh_of as mesh_of,
)
from memjax._compat.jaxprs import (
    replace_eqn as replace_eqn,
)
from memjax._compat.jaxprs import (
    scan_parts as scan_parts,
)
from memjax._compat.jaxprs import (
    sub_jaxprs as sub_jaxprs,
)
from memjax._compat.jaxprs import (
    with_jaxpr as with_jaxpr,
)
from memjax._compat.jaxprs import (
    with_types as with_types,
)
from memjax._compat.leaves import (
    argument_name as argument_name,
)
from memjax._compat.leaves import (
    broadcast_prefix as broadcast_prefix,
)
from memjax._compat.leaves import (
    buffers as buffers,
)
from memjax._compat.leaves import (
    is_deleted as is_deleted,
)
from memjax._compat.leaves import (
    is_pytree as is_pytree,
)
from memjax._compat.leaves import (
    is_tracer as is_tracer,
)
from memjax._compat.leaves import (
    parameter_names as parameter_names,
)
from memjax._compat.leaves import (
    placement as placement,
)
from memjax._compat.stacks import (
    NameStack as NameStack,
)
from memjax._compat.stacks import (
    bind as bind,
)
from memjax._compat.stacks import (
    body_function as body_function,
)
from memjax._compat.stacks import (
    is_jax_file as is_jax_file,
)
from memjax._compat.stacks import (
    line_number as line_number,
)
from memjax._compat.stacks import (
    name_context as name_context,
)
from memjax._compat.stacks import (
    name_stack_of as name_stack_of,
)
from memjax._compat.stacks import (
    raw_frames as raw_frames,
)
from memjax._compat.stacks import (
    scopes as scopes,
)
from memjax._compat.stacks import (
    transforms as transforms,
)
from memjax._compat.state import (
    call_context as call_context,
)
from memjax._compat.state import (
    calls_check_weak_types as calls_check_weak_types,
)
from memjax._compat.state import (
    compiled_messages as compiled_messages,
)
from memjax._compat.state import (
    config as config,
)
from memjax._compat.state import (
    default_device as default_device,
)
from memjax._compat.state import (
    runs_compiled as runs_compiled,
)
from memjax._compat.types import (
    as_type as as_type,
)
from memjax._compat.types import (
    aval_bytes as aval_bytes,
)
from memjax._compat.types import (
    barrier as barrier,
)
from memjax._compat.types import (
    is_key as is_key,
)
from memjax._compat.types import (
    is_spread as is_spread,
)
from memjax._compat.types import (
    is_spread_along as is_spread_along,
)
from memjax._compat.types import (
    make_jaxpr as make_jaxpr,
)
from memjax._compat.types import (
    shard_map_like as shard_map_like,
)
from memjax._compat.types import (
    stacked as stacked,
)
from memjax._compat.types import (
    struct as struct,
)
from memjax._compat.types import (
    with_weak_type as with_weak_type,
)
