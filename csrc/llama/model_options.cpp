#include "llama/model_options.h"

#include <llama.h>

#include <algorithm>
#include <cmath>
#include <iterator>
#include <utility>

#include "colm/error.h"
#include "llama/backend.h"

namespace colm::llama {

void require(bool condition, const std::string& message) {
    if (!condition) throw OptionError(message);
}

void check_model_options(const ModelOptions& o) {
    check_ranges(o);
    require(o.tensor_split.size() <= max_devices(),
            "tensor_split names " + std::to_string(o.tensor_split.size()) + " devices; at most " +
                std::to_string(max_devices()) + " are possible");
    for (const float share : o.tensor_split)
        require(std::isfinite(share) && share >= 0.0f,
                "tensor_split holds " + std::to_string(share) + "; shares are 0 or more");
    for (const auto& [name, type] : {std::pair("type_k", o.type_k), std::pair("type_v", o.type_v)}) {
        constexpr int kTypes[] = {GGML_TYPE_F32,    GGML_TYPE_F16,  GGML_TYPE_BF16,
                                  GGML_TYPE_Q8_0,   GGML_TYPE_Q4_0, GGML_TYPE_Q4_1,
                                  GGML_TYPE_IQ4_NL, GGML_TYPE_Q5_0, GGML_TYPE_Q5_1};
        require(std::find(std::begin(kTypes), std::end(kTypes), type) != std::end(kTypes),
                std::string(name) + " is ggml type " + std::to_string(type) +
                    "; a KV cache can be f32, f16, bf16, q8_0, q4_0, q4_1, iq4_nl, q5_0 or q5_1");
    }
    for (const auto& [path, scale, digest] : o.lora)
        require(std::isfinite(scale), "the scale of the adapter " + path + " is not finite");
}

ModelOptions reading_rows_alike(ModelOptions options) {
    options.repack = false;
    if (options.flash_attn < 0) options.flash_attn = 1;
    for (int* type : {&options.type_k, &options.type_v})
        if (*type == GGML_TYPE_F16) *type = GGML_TYPE_BF16;
    return options;
}

bool same_file(const ModelOptions& a, const ModelOptions& b) {
    const auto of_file = [](const ModelOptions& o) {
        return std::tie(o.path, o.n_gpu_layers, o.main_gpu, o.split_mode, o.tensor_split, o.rpc_servers,
                        o.repack, o.use_mmap, o.use_mlock);
    };
    return of_file(a) == of_file(b);
}

bool same_weights(const ModelOptions& a, const ModelOptions& b) {
    return same_file(a, b) && a.lora == b.lora;
}

}  // namespace colm::llama
