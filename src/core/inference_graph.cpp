#include <torch/csrc/jit/api/function_impl.h>
#include <torch/csrc/jit/ir/constants.h>
#include <torch/csrc/jit/ir/scope.h>
#include <torch/csrc/jit/passes/constant_propagation.h>
#include <torch/csrc/jit/passes/dead_code_elimination.h>

#include <string>
#include <unordered_map>
#include <vector>

#include "core/torchscript.hpp"
#include "error.hpp"

namespace deepcache {
namespace jit = torch::jit;
namespace {

/// A submodule as a value of some method's graph.
struct Submodule {
  jit::Module module;
  std::string path;
};

std::string join(const std::string& parent, const std::string& name) {
  return parent.empty() ? name : parent + "." + name;
}

/// Lowers one method; submodules are lowered by recursion, on copies of their graphs.
class Lowering {
 public:
  Lowering(Graph graph, const Submodule& self) : graph_(std::move(graph)), self_(self) {
    submodules_.emplace(graph_->inputs()[0], self);
  }

  Graph run() {
    name_scopes();
    lower(*graph_->block());
    jit::EliminateDeadCode(graph_);
    return graph_;
  }

 private:
  Submodule* find(const jit::Value* value) {
    const auto found = submodules_.find(value);
    return found == submodules_.end() ? nullptr : &found->second;
  }

  /// Done before calls are inlined: after that, a value's reader is one of the called module's own operators.
  void name_scopes() {
    std::unordered_map<const jit::Value*, std::string> paths{{graph_->inputs()[0], self_.path}};
    for (auto* node : graph_->nodes())
      if (node->kind() == c10::prim::GetAttr && paths.contains(node->input(0)))
        paths.emplace(node->output(), join(paths.at(node->input(0)), node->s(c10::attr::name)));
    for (auto* node : graph_->nodes()) {
      auto path = self_.path;
      for (const auto* output : node->outputs())
        for (const auto& use : output->uses())
          if (use.user->kind() == c10::prim::CallMethod && use.offset > 0 && paths.contains(use.user->input(0)))
            path = paths.at(use.user->input(0));
      node->setScope(c10::make_intrusive<jit::Scope>()->push(c10::Symbol::scope(path)));
    }
  }

  void lower(jit::Block& block) {
    for (auto it = block.nodes().begin(); it != block.nodes().end();) {
      auto* node = *it++;
      const jit::WithInsertPoint guard(node);
      check_argument(node->kind() != c10::prim::SetAttr,
                     "the module changes its own attribute \"{}\" in forward; such a module can't be cached",
                     node->kind() == c10::prim::SetAttr ? node->s(c10::attr::name) : "");
      if (node->kind() == c10::prim::GetAttr) {
        lower_attribute(*node);
      } else if (node->kind() == c10::prim::CallMethod && find(node->input(0)) != nullptr) {
        const auto callee = *find(node->input(0));
        const auto method = callee.module.get_method(node->s(c10::attr::name)).graph();
        replace(*node, *Lowering(method->copy(), callee).run(), node->inputs());
      } else if (node->kind() == c10::prim::CallFunction) {
        const auto type = node->input(0)->type()->expect<c10::FunctionType>();
        const auto function = jit::toGraphFunction(*type->function()).graph()->copy();
        lower(*function->block());
        replace(*node, *function, node->inputs().slice(1));
      } else {
        for (auto* inner : node->blocks()) lower(*inner);
      }
    }
  }

  void lower_attribute(jit::Node& node) {
    const auto* owner = find(node.input(0));
    if (owner == nullptr) return;
    const auto& name = node.s(c10::attr::name);
    auto value = owner->module.attr(name);
    if (value.isModule()) {
      submodules_.emplace(node.output(), Submodule{value.toModule(), join(owner->path, name)});
      return;
    }
    value = map_tensors(value, [](const torch::Tensor& tensor) { return tensor.defined() ? tensor.detach() : tensor; });
    const auto constant = jit::tryInsertConstant(*graph_, value);
    check_argument(constant.has_value(), "the module's attribute \"{}\" can't be made a constant",
                   join(owner->path, name));
    node.output()->replaceAllUsesWith(*constant);
    node.destroy();
  }

  static void replace(jit::Node& node, jit::Graph& callee, c10::ArrayRef<jit::Value*> arguments) {
    const auto outputs = jit::insertGraph(*node.owningGraph(), callee, arguments);
    for (std::size_t i = 0; i < outputs.size(); ++i) node.output(i)->replaceAllUsesWith(outputs[i]);
    node.destroy();
  }

  Graph graph_;
  Submodule self_;
  std::unordered_map<const jit::Value*, Submodule> submodules_;
};

}  // namespace

Graph inference_graph(const jit::Module& module) {
  check_argument(!module.hasattr("training") || !module.is_training(),
                 "the module is in training mode; call eval() on it first");
  const torch::NoGradGuard no_grad;
  auto graph = Lowering(module.get_method("forward").graph()->copy(), {module, ""}).run();
  jit::ConstantPropagation(graph);
  jit::EliminateDeadCode(graph);
  check_argument(!graph->inputs()[0]->hasUses(), "the module uses itself in forward in a way that can't be cached");
  graph->eraseInput(0);
  return graph;
}

c10::FunctionSchema forward_schema(const jit::Module& module) {
  const auto& schema = module.get_method("forward").function().getSchema();
  return schema.cloneWithArguments({schema.arguments().begin() + 1, schema.arguments().end()});
}

}  // namespace deepcache
