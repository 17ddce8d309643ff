"""Faults in formulas, operators, kernels and their caches."""

from __future__ import annotations

from tests.mutants.mutant import Mutant

KERNELS = (
    Mutant(
        "R is transposed in the formula of the write",
        "kernels",
        "        total = total + X[j] * R[:, j]\n",
        "        total = total + X[j] * R[j]\n",
        (
            "tests/kernels/operators/test_streams.py::test_renaming_the_streams_renames_the_result",
            "tests/kernels/test_deepseek_formulation.py",
        ),
    ),
    Mutant(
        "R is transposed in the packed write",
        "kernels",
        'torch.einsum("tij,jtc->itc", R, V)',
        'torch.einsum("tji,jtc->itc", R.expand(-1, -1, V.shape[0]), V)',
        ("tests/kernels/formulas/test_packed.py::test_the_steps_are_the_formulas",),
    ),
    Mutant(
        "R is not transposed in the backward of the write",
        "kernels",
        'torch.einsum("tij,itc->jtc", R, g)',
        'torch.einsum("tji,itc->jtc", R, g) if R.shape[1] == R.shape[2] else torch.einsum("tij,itc->jtc", R, g)',
        ("tests/kernels/formulas/test_packed.py::test_every_spelled_out_gradient_is_that_of_autograd",),
    ),
    Mutant(
        "each stream of hyper-connections keeps its mean",
        "kernels",
        "    weights = weights - weights.mean(0)\n",
        "",
        (
            "tests/kernels/formulas/test_packed.py::test_those_of_hyper_connections_are_the_formulas_with_the_gradient_of_every_parameter",
        ),
    ),
    Mutant(
        "the streams of hyper-connections share the scale of the first",
        "kernels",
        "= sums.q[t][k] * row[K + k % Moments<S, STREAMS>::NORMS];",
        "= sums.q[t][k] * row[K];",
        ("tests/kernels/cpu/test_launch.py::test_so_is_every_result_for_other_connections",),
    ),
    Mutant(
        "the tanh of hyper-connections has no slope in the second derivative",
        "kernels",
        "hgt * slope + gt * bend * hz",
        "hgt * slope",
        ("tests/kernels/operators/test_ops.py::test_the_operators_pass_gradcheck_twice",),
    ),
    Mutant(
        "Sinkhorn runs once more",
        "kernels",
        "    M = torch.softmax(torch.log_softmax(logits, dim=0), dim=1)\n    for _ in range(iterations - 1):\n",
        "    M = torch.softmax(torch.log_softmax(logits, dim=0), dim=1)\n    for _ in range(iterations):\n",
        ("tests/kernels/formulas/test_reference.py::test_sinkhorn_is_the_formula_written_out",),
    ),
    Mutant(
        "each term of the read is rounded to bf16",
        "kernels",
        "        total = total + X[i] * pre[i]\n",
        "        total = total + (X[i] * pre[i]).to(X.dtype)\n",
        ("tests/kernels/test_rounding.py::test_the_formulas_of_reference_round_once",),
    ),
    Mutant(
        "the packed write takes coefficients in bf16",
        "kernels",
        "return rows(X, axis).to(dtype), rows(y[None], axis)[0].to(dtype), mix.to(dtype)",
        "return rows(X, axis).to(dtype), rows(y[None], axis)[0].to(dtype), mix.to(X.dtype).to(dtype)",
        ("tests/kernels/test_rounding.py::test_a_step_and_its_backward_round_once",),
    ),
    Mutant(
        "the C++ kernels shift streams the other way under circulant",
        "kernels",
        "gate * shifts.weights[(j - i + N) % N]",
        "gate * shifts.weights[(i - j + N) % N]",
        ("tests/kernels/cpu/test_launch.py::test_so_is_every_result_for_other_connections",),
    ),
    Mutant(
        "the C++ kernels round each term of the write",
        "kernels",
        "    for (int j = 0; j < M; ++j) total = fma(x[j], all<F>(at[i][j][t]), total);\n"
        "    if (sizeof(typename S::O) != sizeof(F)) {\n",
        "    for (int j = 0; j < M; ++j) {\n"
        "      typename S::O term[W<F>];\n"
        "      total = fma(x[j], all<F>(at[i][j][t]), total);\n"
        "      put(term, total);\n"
        "      get(total, term);\n"
        "    }\n"
        "    if (sizeof(typename S::O) != sizeof(F)) {\n",
        ("tests/kernels/test_rounding.py::test_a_step_and_its_backward_round_once[C++-write-last]",),
    ),
    Mutant(
        "the C++ kernels transpose R",
        "kernels",
        "F(value(row[N + i * N + j]))",
        "F(value(row[N + j * N + i]))",
        ("tests/kernels/cpu/test_launch.py::test_so_is_every_result_for_other_numbers_of_streams[3]",),
    ),
    Mutant(
        "the C++ kernels gate streams that are not rounded",
        "kernels",
        "    if (sizeof(typename S::O) != sizeof(F)) {\n      typename S::O stored[W<F>];\n",
        "    if (false) {\n      typename S::O stored[W<F>];\n",
        ("tests/kernels/test_rounding.py::test_the_next_site_reads_the_streams_as_they_are_stored",),
    ),
    Mutant(
        "the Triton kernels gate streams that are not rounded",
        "kernels",
        "            v = stored.to(tl.float32)\n            moments = ",
        "            v = written(xs, branch, post, R, i, m)\n            moments = ",
        ("tests/gpu/interpreter/test_steps.py::test_the_next_site_reads_the_streams_as_they_are_stored",),
        interpreted=True,
    ),
    Mutant(
        "the Triton kernels transpose R",
        "kernels",
        "        v += R[i * m + j] * xs[j]\n",
        "        v += R[j * m + i] * xs[j]\n",
        ("tests/gpu/interpreter/test_steps.py::test_every_result_is_that_of_the_formulas[4-streams-tiny]",),
        interpreted=True,
    ),
    Mutant(
        "streams are restored in the dtype of their start",
        "kernels",
        "    return reduce(torch.promote_types, (y.dtype for y in past[::2]), start.dtype)\n",
        "    return start.dtype\n",
        (
            "tests/kernels/operators/test_recomputed.py::test_branches_of_several_dtypes_are_restored_in_the_dtype_that_the_streams_had",
        ),
    ),
    Mutant(
        "the hash of the sources leaves the C++ out",
        "kernels",
        'for path in sorted([*folder.rglob("*.py"), *folder.rglob("*.h")]):',
        'for path in sorted(folder.rglob("*.py")):',
        ("tests/kernels/inductor/test_cache_keys.py::test_the_hash_changes_with_any_python_or_cpp_source",),
        own_caches=True,
    ),
    Mutant(
        "a compiled kernel does not depend on the flags",
        "kernels",
        '"\\0".join((path, _version(path), _processor(), *FLAGS, source))',
        '"\\0".join((path, _version(path), _processor(), source))',
        ("tests/kernels/cpu/test_kernel.py::test_all_that_the_compiler_depends_on_is_in_the_name_of_the_file",),
        own_caches=True,
    ),
    Mutant(
        "a compiled kernel does not depend on the processor",
        "kernels",
        '"\\0".join((path, _version(path), _processor(), *FLAGS, source))',
        '"\\0".join((path, _version(path), *FLAGS, source))',
        ("tests/kernels/cpu/test_kernel.py::test_all_that_the_compiler_depends_on_is_in_the_name_of_the_file",),
        own_caches=True,
    ),
    Mutant(
        "an operator that is recorded is passed by",
        "kernels",
        "torch.compiler.is_compiling() or bool(compat.dispatch_modes())",
        "torch.compiler.is_compiling()",
        (
            "tests/kernels/operators/test_ops.py::test_without_gradients_a_kernel_is_called_past_the_dispatcher_unless_somebody_records",
        ),
    ),
    Mutant(
        "phi is taken for packed where it is read as it is given",
        "kernels",
        "phi + (i * s.channels + c) * K, width, count, ahead);",
        "phi + packed_at<S, false>(STREAMS, i, c, 0), width, count, ahead);",
        ("tests/kernels/cpu/test_launch.py::test_a_token_alone_has_the_bits_it_has_among_others",),
        own_caches=True,
    ),
    Mutant(
        "the identity of the C++ kernels is turned round",
        "kernels",
        "M[i][i] = 1 - V{};",
        "M[i][N - 1 - i] = 1 - V{};",
        ("tests/kernels/cpu/test_launch.py::test_so_is_every_result_for_other_connections",),
    ),
    Mutant(
        "the eps of Hy-V4 is left out of the write gate",
        "kernels",
        "return pre + manifold.eps, post + manifold.eps, R.flatten(0, 1).t()",
        "return pre + manifold.eps, post, R.flatten(0, 1).t()",
        ("tests/kernels/formulas/test_packed.py::test_the_steps_are_the_formulas",),
    ),
    Mutant(
        "a single-pass boundary reads with weights of its own",
        "kernels",
        "(pre.to(V.dtype)[..., None] * V.movedim(0, 1)).sum(1)",
        "(coefficients.gate(V, phi, alpha, bias, n, manifold_of(connection))[0][..., None] * V.movedim(0, 1)).sum(1)",
        ("tests/kernels/formulas/test_packed.py::test_the_steps_are_the_formulas",),
    ),
)
