// Lets autograd of a torch for CPUs run on tensors that say they are on a GPU (pretend_gpu.py): a guard of the current
// device, streams and events that do nothing, and hooks that answer as two cards would. torch looks for them when it
// starts: LD_PRELOAD.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <utility>

namespace {
const c10::DeviceIndex CARDS = 2;
thread_local c10::Device current(c10::DeviceType::CUDA, 0);

struct Guard : c10::impl::NoOpDeviceGuardImpl<c10::DeviceType::CUDA> {
    c10::Device exchangeDevice(c10::Device device) const override { return std::exchange(current, device); }
    c10::Device getDevice() const override { return current; }
    void setDevice(c10::Device device) const override { current = device; }
    void uncheckedSetDevice(c10::Device device) const noexcept override { current = device; }
    c10::DeviceIndex deviceCount() const noexcept override { return CARDS; }
    c10::Stream getStream(c10::Device device) const noexcept override { return c10::Stream(c10::Stream::DEFAULT, device); }
    c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
    void record(void**, const c10::Stream&, c10::DeviceIndex, c10::EventFlag) const override {}
    void block(void*, const c10::Stream&) const override {}
    bool queryEvent(void*) const override { return true; }
};
c10::impl::DeviceGuardImplRegistrar guard(c10::DeviceType::CUDA, new Guard());
}  // namespace

namespace at {
struct CUDAHooks : CUDAHooksInterface {
    CUDAHooks(CUDAHooksArgs) {}
    void init() const override {}
    bool isBuilt() const override { return true; }
    bool isAvailable() const override { return true; }
    bool hasCUDA() const override { return true; }
    bool hasPrimaryContext(DeviceIndex) const override { return true; }
    DeviceIndex current_device() const override { return current.index(); }
    DeviceIndex getCurrentDevice() const override { return current.index(); }
    DeviceIndex deviceCount() const override { return CARDS; }
    int getNumGPUs() const override { return CARDS; }
};
REGISTER_CUDA_HOOKS(CUDAHooks)
}  // namespace at
