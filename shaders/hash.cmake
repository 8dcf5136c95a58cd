# cmake -DGEN=... -P hash.cmake: writes GEN/shader_hash.h with the hash of all kernels of the build, which is part of the name of
# every cache on disk. It is made of the compiled words, so that a change of a comment does not throw a cache away.
file(STRINGS ${GEN}/kernels.list headers)
file(SHA256 ${GEN}/kernels.def all)
foreach(header ${headers})
  file(SHA256 ${header} one)
  string(APPEND all ${one})
endforeach()
string(SHA256 hash "${all}")
file(CONFIGURE OUTPUT ${GEN}/shader_hash.h CONTENT "#define PM_SHADER_HASH \"${hash}\"\n" @ONLY)
file(TOUCH_NOCREATE ${GEN}/shader_hash.h)
