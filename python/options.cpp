#include "colm/options.h"

#include <pybind11/native_enum.h>
#include <pybind11/stl.h>

#include "bindings.h"
#include "llama/model_options.h"
#include "llama/pair.h"

namespace py = pybind11;

namespace colm::python {

namespace {

void register_model_options(py::module_& module) {
    using llama::ModelOptions;
    py::class_<ModelOptions>(module, "ModelOptions")
        .def(py::init<>())
        .def_readwrite("path", &ModelOptions::path)
        .def_readwrite("n_ctx", &ModelOptions::n_ctx)
        .def_readwrite("n_batch", &ModelOptions::n_batch)
        .def_readwrite("n_ubatch", &ModelOptions::n_ubatch)
        .def_readwrite("n_threads", &ModelOptions::n_threads)
        .def_readwrite("n_threads_batch", &ModelOptions::n_threads_batch)
        .def_readwrite("n_sequences", &ModelOptions::n_sequences)
        .def_readwrite("n_outputs", &ModelOptions::n_outputs)
        .def_readwrite("n_gpu_layers", &ModelOptions::n_gpu_layers)
        .def_readwrite("main_gpu", &ModelOptions::main_gpu)
        .def_readwrite("split_mode", &ModelOptions::split_mode)
        .def_readwrite("tensor_split", &ModelOptions::tensor_split)
        .def_readwrite("offload_kqv", &ModelOptions::offload_kqv)
        .def_readwrite("flash_attn", &ModelOptions::flash_attn)
        .def_readwrite("type_k", &ModelOptions::type_k)
        .def_readwrite("type_v", &ModelOptions::type_v)
        .def_readwrite("swa_full", &ModelOptions::swa_full)
        .def_readwrite("repack", &ModelOptions::repack)
        .def_readwrite("batch_invariant", &ModelOptions::batch_invariant)
        .def_readwrite("use_mmap", &ModelOptions::use_mmap)
        .def_readwrite("use_mlock", &ModelOptions::use_mlock)
        .def_readwrite("huge_pages", &ModelOptions::huge_pages)
        .def_readwrite("rope_freq_base", &ModelOptions::rope_freq_base)
        .def_readwrite("rope_freq_scale", &ModelOptions::rope_freq_scale)
        .def_readwrite("lora", &ModelOptions::lora);
}

}  // namespace

void register_options(py::module_& module) {
    register_model_options(module);

    py::native_enum<Schedule>(module, "Schedule", "enum.Enum")
        .value("constant", Schedule::constant)
        .value("linear", Schedule::linear)
        .value("cosine", Schedule::cosine)
        .value("exponential", Schedule::exponential)
        .finalize();
    py::native_enum<Strategy>(module, "Strategy", "enum.Enum")
        .value("defer", Strategy::defer)
        .value("compose", Strategy::compose)
        .value("contrastive", Strategy::contrastive)
        .finalize();

    py::class_<PolicyOptions>(module, "PolicyOptions")
        .def(py::init<>())
        .def_readwrite("threshold", &PolicyOptions::threshold)
        .def_readwrite("schedule", &PolicyOptions::schedule)
        .def_readwrite("schedule_tokens", &PolicyOptions::schedule_tokens)
        .def_readwrite("target_rate", &PolicyOptions::target_rate)
        .def_readwrite("hold", &PolicyOptions::hold)
        .def_readwrite("leave_threshold", &PolicyOptions::leave_threshold);
    py::class_<StrategyOptions>(module, "StrategyOptions")
        .def(py::init<>())
        .def_readwrite("strategy", &StrategyOptions::strategy)
        .def_readwrite("beta", &StrategyOptions::beta)
        .def_readwrite("alpha", &StrategyOptions::alpha);
    py::class_<SamplingOptions>(module, "SamplingOptions")
        .def(py::init<>())
        .def_readwrite("temperature", &SamplingOptions::temperature)
        .def_readwrite("top_k", &SamplingOptions::top_k)
        .def_readwrite("top_p", &SamplingOptions::top_p)
        .def_readwrite("min_p", &SamplingOptions::min_p)
        .def_readwrite("typical_p", &SamplingOptions::typical_p)
        .def_readwrite("repeat_penalty", &SamplingOptions::repeat_penalty)
        .def_readwrite("frequency_penalty", &SamplingOptions::frequency_penalty)
        .def_readwrite("presence_penalty", &SamplingOptions::presence_penalty)
        .def_readwrite("penalty_last_n", &SamplingOptions::penalty_last_n)
        .def_readwrite("seed", &SamplingOptions::seed)
        .def_readwrite("logit_bias", &SamplingOptions::logit_bias)
        .def_readwrite("grammar", &SamplingOptions::grammar);
    py::class_<GenerationOptions>(module, "GenerationOptions")
        .def(py::init<>())
        .def_readwrite("policy", &GenerationOptions::policy)
        .def_readwrite("strategy", &GenerationOptions::strategy)
        .def_readwrite("sampling", &GenerationOptions::sampling)
        .def_readwrite("max_tokens", &GenerationOptions::max_tokens)
        .def_readwrite("stop", &GenerationOptions::stop)
        .def_readwrite("n_logprobs", &GenerationOptions::n_logprobs)
        .def_readwrite("lookahead", &GenerationOptions::lookahead)
        .def("check", &llama::check_options,
             "Raise OptionError for an option outside its range, whatever the pair.");
}

}  // namespace colm::python
