saved_file.o: hosted/saved_file.c hosted/saved_file.h hosted/ram.h \
  core/types.h machine/saved.h core/err.h core/state.h machine/config.h \
  core/vm.h core/bus.h core/lock.h core/clock.h core/guest_mem.h \
  core/seam.h core/vcpu.h core/exit.h x86/level.h isa/insn.h isa/ops.h \
  core/mem.h hosted/seam.h

hosted/saved_file.h:

hosted/ram.h:

core/types.h:

machine/saved.h:

core/err.h:

core/state.h:

machine/config.h:

core/vm.h:

core/bus.h:

core/lock.h:

core/clock.h:

core/guest_mem.h:

core/seam.h:

core/vcpu.h:

core/exit.h:

x86/level.h:

isa/insn.h:

isa/ops.h:

core/mem.h:

hosted/seam.h:
