"""What differs between JAX versions, and all use of what JAX does not document.

Supported: jax 0.10.2 (the newest for Python 3.11) to the newest. Everything else in memjax
sees jaxprs, types and arrays through the functions of this room, by `_compat.<name>`.
"""

from memjax._compat.devices import (
    JAX_VERSION as JAX_VERSION,
    attached_devices as attached_devices,
    compile_only_devices as compile_only_devices,
    default_device as default_device,
    is_compile_only as is_compile_only,
    register_plugins as register_plugins,
)
from memjax._compat.jaxprs import (
    BODIES as BODIES,
    INLINED_CALLS as INLINED_CALLS,
    JIT_PRIMITIVES as JIT_PRIMITIVES,
    Literal as Literal,
    ScanParts as ScanParts,
    as_function as as_function,
    call_name as call_name,
    contains as contains,
    count_eqns as count_eqns,
    dce_jaxpr as dce_jaxpr,
    inlinable_body as inlinable_body,
    jaxpr_parts as jaxpr_parts,
    loop_length as loop_length,
    mesh_of as mesh_of,
    replace_eqn as replace_eqn,
    scan_parts as scan_parts,
    sub_jaxprs as sub_jaxprs,
    with_jaxpr as with_jaxpr,
    with_types as with_types,
)
from memjax._compat.leaves import (
    argument_name as argument_name,
    broadcast_prefix as broadcast_prefix,
    buffers as buffers,
    is_deleted as is_deleted,
    is_pytree as is_pytree,
    is_tracer as is_tracer,
    parameter_names as parameter_names,
    placement as placement,
)
from memjax._compat.stacks import (
    NameStack as NameStack,
    bind as bind,
    body_function as body_function,
    is_jax_file as is_jax_file,
    line_number as line_number,
    name_context as name_context,
    name_stack_of as name_stack_of,
    raw_frames as raw_frames,
    scopes as scopes,
    transforms as transforms,
)
from memjax._compat.state import (
    call_context as call_context,
    calls_check_weak_types as calls_check_weak_types,
    compiled_messages as compiled_messages,
    config as config,
    jit_settings as jit_settings,
    runs_compiled as runs_compiled,
)
from memjax._compat.types import (
    as_type as as_type,
    aval_bytes as aval_bytes,
    barrier as barrier,
    is_key as is_key,
    is_spread as is_spread,
    is_spread_along as is_spread_along,
    make_jaxpr as make_jaxpr,
    shard_map_like as shard_map_like,
    stacked as stacked,
    struct as struct,
    struct_at as struct_at,
    with_weak_type as with_weak_type,
)
