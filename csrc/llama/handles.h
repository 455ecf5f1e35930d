// Owners of llama.cpp's C handles.
#pragma once

#include <llama.h>

#include <memory>

namespace colm::llama {

struct HandleDeleter {
    void operator()(llama_model* model) const { llama_model_free(model); }
    void operator()(llama_context* context) const { llama_free(context); }
    void operator()(llama_sampler* sampler) const { llama_sampler_free(sampler); }
};

using ModelPtr = std::unique_ptr<llama_model, HandleDeleter>;
using ContextPtr = std::unique_ptr<llama_context, HandleDeleter>;
using SamplerPtr = std::unique_ptr<llama_sampler, HandleDeleter>;

}  // namespace colm::llama
