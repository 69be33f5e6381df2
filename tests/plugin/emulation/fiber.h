// Fibers: functions with stacks of their own that hand control back and forth on one thread. One lane of a warp each.
#pragma once

#include <cstddef>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>

#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
#endif
#if !defined(__x86_64__)
#include <ucontext.h>
#endif

namespace emulation {

// Where control is: a stack pointer with the callee-saved registers above it, or what the C library keeps.
#if defined(__x86_64__)
using Context = void*;
extern "C" void emulation_switch(Context* from, Context* to);
// System V ABI: everything else is the caller's to save. Ten times as fast as swapcontext, which asks the kernel.
asm(R"(
.text
.globl emulation_switch
.type emulation_switch, @function
emulation_switch:
  push %rbp
  push %rbx
  push %r12
  push %r13
  push %r14
  push %r15
  mov %rsp, (%rdi)
  mov (%rsi), %rsp
  pop %r15
  pop %r14
  pop %r13
  pop %r12
  pop %rbx
  pop %rbp
  ret
.size emulation_switch, .-emulation_switch
)");
#else
using Context = ucontext_t;
inline void emulation_switch(Context* from, Context* to) { swapcontext(from, to); }
#endif

class Fiber {
 public:
  static constexpr size_t kStackBytes = 256 * 1024;

  Fiber() : stack_(new unsigned char[kStackBytes]) {}

  // Makes the next resume() call `body` from its beginning.
  void restart(const std::function<void()>* body) {
    body_ = body;
    done_ = false;
#if defined(__x86_64__)
    auto* top = reinterpret_cast<void**>((reinterpret_cast<uintptr_t>(stack_.get()) + kStackBytes) & ~uintptr_t{15});
    *--top = nullptr;  // so that the stack is aligned as after a call
    *--top = reinterpret_cast<void*>(&Fiber::enter);
    for (int i = 0; i < 6; ++i) *--top = nullptr;
    own_ = top;
#else
    getcontext(&own_);
    own_.uc_stack.ss_sp = stack_.get();
    own_.uc_stack.ss_size = kStackBytes;
    own_.uc_link = nullptr;
    makecontext(&own_, &Fiber::enter, 0);
#endif
  }

  // Runs the fiber until it suspends itself or ends.
  void resume() {
    running_ = this;
    leave_for(&fake_caller_, stack_.get(), kStackBytes);
    emulation_switch(&caller_, &own_);
    arrive_from(fake_caller_, nullptr, nullptr);
    running_ = nullptr;
  }

  // Called within a fiber: back to the fiber that resumed it.
  static void suspend() {
    Fiber* const self = running_;
    leave_for(&self->fake_own_, self->caller_bottom_, self->caller_bytes_);
    emulation_switch(&self->own_, &self->caller_);
    arrive_from(self->fake_own_, &self->caller_bottom_, &self->caller_bytes_);
  }

  bool done() const { return done_; }

 private:
  static void enter() {
    Fiber* const self = running_;
    arrive_from(nullptr, &self->caller_bottom_, &self->caller_bytes_);
    (*self->body_)();
    self->done_ = true;
    suspend();
    __builtin_unreachable();
  }

#if defined(__SANITIZE_ADDRESS__)
  static void leave_for(void** fake, const void* bottom, size_t bytes) {
    __sanitizer_start_switch_fiber(fake, bottom, bytes);
  }
  static void arrive_from(void* fake, const void** bottom, size_t* bytes) {
    __sanitizer_finish_switch_fiber(fake, bottom, bytes);
  }
#else
  static void leave_for(void**, const void*, size_t) {}
  static void arrive_from(void*, const void**, size_t*) {}
#endif

  static inline Fiber* running_ = nullptr;

  std::unique_ptr<unsigned char[]> stack_;
  const std::function<void()>* body_ = nullptr;
  bool done_ = true;
  Context own_{}, caller_{};
  void *fake_own_ = nullptr, *fake_caller_ = nullptr;
  const void* caller_bottom_ = nullptr;
  size_t caller_bytes_ = 0;
};

}  // namespace emulation
