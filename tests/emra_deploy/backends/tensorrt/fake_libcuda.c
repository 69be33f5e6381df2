/* A driver's libcuda.so.1 as far as CUDA's own runtime asks it before the first GPU; answers come from the environment. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>

static int number(const char *name, int otherwise) {
  const char *text = getenv(name);
  return text ? atoi(text) : otherwise;
}

static int unsupported(void) { return 801; }

int cuInit(unsigned flags) {
  (void)flags;
  if (getenv("FAKE_ABORT")) abort();
  return number("FAKE_CUINIT", 0);
}

int cuDriverGetVersion(int *version) {
  *version = number("FAKE_CUDA", 99000);
  return 0;
}

int cuDeviceGetCount(int *count) {
  *count = 0;
  return 0;
}

int cuGetErrorString(int error, const char **text) {
  (void)error;
  *text = "said by the driver";
  return 0;
}

int cuGetProcAddress(const char *name, void **found, int version, unsigned long long flags) {
  Dl_info here;
  void *self = dladdr((void *)unsupported, &here) ? dlopen(here.dli_fname, RTLD_LAZY | RTLD_NOLOAD) : NULL;
  (void)version;
  (void)flags;
  *found = self ? dlsym(self, name) : NULL;
  if (!*found) *found = (void *)unsupported;
  return 0;
}

int cuGetProcAddress_v2(const char *name, void **found, int version, unsigned long long flags, int *status) {
  if (status) *status = 0;
  return cuGetProcAddress(name, found, version, flags);
}
