# Lodge's build. Everything goes under build/. `make help` lists what there is.
#
# The freestanding part (FREE_DIRS) is compiled from the same .c files into three object trees:
#   build/hosted  for the Linux program           build/native  for the bare-metal image
#   build/test    with sanitizers and assertions, for unit tests
# all with -ffreestanding -nostdinc, so that what builds hosted builds native (docs/toolchain.md).

CC ?= gcc
ifeq ($(origin CC),default)
CC := gcc
endif
CLANG ?= clang
O := build
comma := ,
# make V=1 shows whole commands
ifeq ($(V),1)
quiet = @:
else
Q := @
quiet = @printf '  %-7s %s\n' $(1) $(2)
endif

FREE_DIRS := isa core x86 device share engine/soft machine
FREE_SRCS := $(sort $(foreach d,$(FREE_DIRS),$(wildcard $(d)/*.c)))
HOSTED_SRCS := $(sort $(wildcard hosted/*.c engine/kvm/*.c))

WARNINGS := -Wall -Wextra -Werror -Wconversion -Wsign-conversion -Wshadow -Wundef -Wvla \
    -Wstrict-prototypes -Wmissing-prototypes -Wcast-qual -Wwrite-strings -Wimplicit-fallthrough \
    -Wswitch-enum -Wpointer-arith
CC_INCLUDE := $(shell $(CC) -print-file-name=include)
COMMON := -std=gnu17 -I. -Iinclude $(WARNINGS) -MMD -MP -fno-strict-aliasing -fno-common
FREESTANDING = -ffreestanding -nostdinc -isystem $(CC_INCLUDE) -mno-red-zone
# Indirect branches through native/thunks.S
RETPOLINES := $(if $(findstring clang,$(CC)),-mretpoline-external-thunk,-mindirect-branch=thunk-extern \
    -mindirect-branch-register)
FREE_FLAGS_hosted := -O2 -g -mgeneral-regs-only -fPIE -fstack-protector-strong
FREE_FLAGS_native := -O2 -g -mgeneral-regs-only -mcmodel=kernel -fno-pic -fno-stack-protector \
    -fno-omit-frame-pointer -fno-asynchronous-unwind-tables $(RETPOLINES)
SANITIZE := -fsanitize=address,undefined -fno-sanitize-recover=all -fno-omit-frame-pointer
FREE_FLAGS_test := -O1 -g -DLODGE_DEBUG=1 $(SANITIZE)
HOSTED_FLAGS := -O2 -g -fPIE -fstack-protector-strong -D_GNU_SOURCE -D_FORTIFY_SOURCE=2
FREE_FLAGS_asan := -O1 -g -DLODGE_DEBUG=1 -fPIE $(SANITIZE)
FREE_FLAGS_fuzz := -O1 -g -DLODGE_DEBUG=1 -fsanitize=fuzzer-no-link,address,undefined \
    -fno-sanitize-recover=all
TEST_FLAGS := -O1 -g -DLODGE_DEBUG=1 -D_GNU_SOURCE $(SANITIZE) -mno-red-zone

# Of native/, what does without a machine: its instructions are in native/io.h, whose namesake in tests/fakes
# is answered by a test's device.
NATIVE_TESTED := $(addprefix native/,acpi.c boot_info.c calibrate.c chacha.c clock.c cmos.c frames.c line.c log.c power.c \
    random.c ring.c screen.c screen_font.c serial.c topology.c ymodem.c)
NATIVE_TEST_OBJS = $(NATIVE_TESTED:%.c=$(O)/test/%.o) $(O)/test/tests/fakes/io.o
# Likewise of engine/vmx/insn.h: tests keep the processor (tests/fakes/vt.c).
VMX_TEST_OBJS := $(patsubst %.c,$(O)/test/%.o,engine/nested.c $(wildcard engine/vmx/*.c)) $(O)/test/tests/fakes/vt.o

free_objs = $(FREE_SRCS:%.c=$(O)/$(1)/%.o)
HOSTED_OBJS := $(HOSTED_SRCS:%.c=$(O)/hosted/%.o)

.PHONY: all help unit clean native-objects
all: $(O)/lodge native-objects

help:
	@sed -n 's/^## //p' $(MAKEFILE_LIST)

# --- the program's libc ---------------------------------------------------------------------------
# musl, linked statically (docs/toolchain.md, "libc"); with LIBC=system the compiler's own, dynamically. The kernel's
# headers are where the system's are, which musl's must not be mixed with.

LIBC ?= musl
LIBC_CHOSEN := $(O)/libc-$(LIBC)
ifeq ($(LIBC),musl)
MUSL := x86_64-linux-musl
crt_file = $(shell $(CC) -print-file-name=$(1))
HOSTED_INCLUDE := -nostdinc -isystem /usr/include/$(MUSL) -isystem $(CC_INCLUDE) -isystem $(LIBC_CHOSEN)
hosted_link = $(CC) -static-pie -nostdlib -Wl,-z,relro,-z,now $(1) $(addprefix /usr/lib/$(MUSL)/,rcrt1.o crti.o) \
    $(call crt_file,crtbeginS.o) $(filter %.o,$^) /usr/lib/$(MUSL)/libc.a $(call crt_file,libgcc.a) \
    $(call crt_file,crtendS.o) /usr/lib/$(MUSL)/crtn.o
else
HOSTED_INCLUDE :=
hosted_link = $(CC) -pie $(1) $(filter %.o,$^) -lpthread
endif

# What is compiled for one libc is made anew for another. (Not by a rule: with .SECONDARY nobody misses a file.)
ifeq ($(wildcard $(LIBC_CHOSEN)),)
$(shell rm -rf $(O)/libc-* && mkdir -p $(LIBC_CHOSEN) && cd $(LIBC_CHOSEN) && \
    ln -s /usr/include/linux /usr/include/asm-generic . && ln -s /usr/include/x86_64-linux-gnu/asm asm)
endif

# --- the three trees ---------------------------------------------------------------------------

define free_rule
$(O)/$(1)/$(2)/%.o: $(2)/%.c
	@mkdir -p $$(@D)
	$$(call quiet,CC,$$@)
	$$(Q)$$(CC) $$(COMMON) $$(FREESTANDING) $$(FREE_FLAGS_$(1)) -c -o $$@ $$<
endef
$(O)/fuzz/%: CC := $(CLANG)
$(O)/fuzz/%: CC_INCLUDE = $(shell $(CLANG) -print-resource-dir)/include
$(foreach t,hosted native test asan fuzz,$(foreach d,$(FREE_DIRS),$(eval $(call free_rule,$(t),$(d)))))

$(foreach t,native test fuzz,$(eval $(call free_rule,$(t),native)))
$(O)/test/native/%: COMMON := -Itests/fakes $(COMMON)
$(eval $(call free_rule,test,engine/vmx))
$(O)/test/engine/vmx/% $(O)/test/tests/fakes/vt.o $(O)/test/tests/unit/vmx%.o: COMMON := -Itests/fakes $(COMMON)

$(HOSTED_OBJS): $(O)/hosted/%.o: %.c $(LIBC_CHOSEN)
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(HOSTED_INCLUDE) $(COMMON) $(HOSTED_FLAGS) -c -o $@ $<

$(O)/lodge: $(call free_objs,hosted) $(HOSTED_OBJS)
	$(call quiet,LINK,$@)
	$(Q)$(call hosted_link) -o $@

# The same program with sanitizers and assertions: what hostile guests are run under as well. The
# sandbox does not know the system calls of sanitizers: run it with --no-sandbox.
ASAN_HOSTED := $(HOSTED_SRCS:%.c=$(O)/asan/%.o)
$(ASAN_HOSTED): $(O)/asan/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) -O1 -g -fPIE -D_GNU_SOURCE -DLODGE_DEBUG=1 $(SANITIZE) -c -o $@ $<
$(O)/asan/lodge: $(call free_objs,asan) $(ASAN_HOSTED)
	$(call quiet,LINK,$@)
	$(Q)$(CC) -pie $(SANITIZE) -o $@ $^ -lpthread

native-objects: $(call free_objs,native)

# --- the bare-metal image -------------------------------------------------------------------------
# engine/soft has no place in it. GRUB loads debug sections, too: they stay in a file of their own.

NATIVE_DIRS := native engine engine/svm engine/vmx
NATIVE_C := $(sort $(foreach d,$(NATIVE_DIRS),$(wildcard $(d)/*.c)))
NATIVE_S := $(sort $(foreach d,$(NATIVE_DIRS),$(wildcard $(d)/*.S)))
NATIVE_OBJS := $(NATIVE_C:%.c=$(O)/native/%.o) $(NATIVE_S:%.S=$(O)/native/%.S.o) \
    $(patsubst %.c,$(O)/native/%.o,$(filter-out engine/soft/%,$(FREE_SRCS)))

$(NATIVE_C:%.c=$(O)/native/%.o): $(O)/native/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) $(FREESTANDING) $(FREE_FLAGS_native) -c -o $@ $<
$(NATIVE_S:%.S=$(O)/native/%.S.o): $(O)/native/%.S.o: %.S
	@mkdir -p $(@D)
	$(call quiet,AS,$@)
	$(Q)$(CC) -I. -MMD -MP -g -c -o $@ $<
$(O)/native/native.ld: native/native.ld native/layout.h
	@mkdir -p $(@D)
	$(Q)$(CC) -E -P -x c -I. -o $@ $<
# Linked twice: the names of functions, for backtraces, go behind the code.
NATIVE_LINK = ld -static -nostdlib -z max-page-size=4096 -z noexecstack --build-id=none --gc-sections \
    $(NATIVE_LINK_MORE) -T $(O)/native/native.ld -o $@
$(O)/native/nameless: $(O)/native/native.ld $(NATIVE_OBJS)
	$(Q)$(NATIVE_LINK) $(NATIVE_OBJS)
$(O)/native/symbols.o: $(O)/native/nameless tools/native-symbols.py
	$(Q)tools/native-symbols.py $< >$(@:.o=.S) && $(CC) -c -o $@ $(@:.o=.S)
$(O)/lodge-native.debug: $(O)/native/nameless $(O)/native/symbols.o
	$(call quiet,LINK,$@)
	$(Q)$(NATIVE_LINK) $(NATIVE_OBJS) $(O)/native/symbols.o
$(O)/lodge-native: $(O)/lodge-native.debug
	$(Q)objcopy --strip-all $< $@

## native         the bare-metal image: build/lodge-native
.PHONY: native
native: $(O)/lodge-native

## native-size    lines of code in it, by layer
.PHONY: native-size
native-size: $(O)/lodge-native
	@tools/native-size.py $(NATIVE_OBJS)

# The same with tests/native/threads.c in place of the fleet: threads tried on a machine's CPUs, with assertions.
NATIVE_TEST_IMAGE_OBJS := $(patsubst $(O)/native/%,$(O)/native-test/%,$(NATIVE_OBJS)) $(O)/native-test/tests/native/threads.o

$(O)/native-test/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) $(FREESTANDING) $(FREE_FLAGS_native) -DLODGE_DEBUG=1 -c -o $@ $<
$(O)/native-test/%.S.o: %.S
	@mkdir -p $(@D)
	$(call quiet,AS,$@)
	$(Q)$(CC) -I. -MMD -MP -g -c -o $@ $<
# And with the fleet, but assertions, and isolation proven at each change: what tests boot.
NATIVE_CHECKED_OBJS := $(patsubst $(O)/native/%,$(O)/native-test/%,$(filter-out %/isolation_start.o,$(NATIVE_OBJS))) \
    $(O)/native-test/tests/native/isolation_always.o

$(O)/native-test/checked-nameless: $(O)/native/native.ld $(NATIVE_CHECKED_OBJS)
	$(Q)$(NATIVE_LINK) $(NATIVE_CHECKED_OBJS)
$(O)/native-test/checked-symbols.o: $(O)/native-test/checked-nameless tools/native-symbols.py
	$(Q)tools/native-symbols.py $< >$(@:.o=.S) && $(CC) -c -o $@ $(@:.o=.S)
$(O)/lodge-native-checked.debug: $(O)/native-test/checked-nameless $(O)/native-test/checked-symbols.o
	$(call quiet,LINK,$@)
	$(Q)$(NATIVE_LINK) $(NATIVE_CHECKED_OBJS) $(O)/native-test/checked-symbols.o
$(O)/lodge-native-checked: $(O)/lodge-native-checked.debug
	$(Q)objcopy --strip-all $< $@

$(O)/native-test/nameless $(O)/lodge-native-test.debug: NATIVE_LINK_MORE := --wrap=home_start
$(O)/native-test/nameless: $(O)/native/native.ld $(NATIVE_TEST_IMAGE_OBJS)
	$(Q)$(NATIVE_LINK) $(NATIVE_TEST_IMAGE_OBJS)
$(O)/native-test/symbols.o: $(O)/native-test/nameless tools/native-symbols.py
	$(Q)tools/native-symbols.py $< >$(@:.o=.S) && $(CC) -c -o $@ $(@:.o=.S)
$(O)/lodge-native-test.debug: $(O)/native-test/nameless $(O)/native-test/symbols.o
	$(call quiet,LINK,$@)
	$(Q)$(NATIVE_LINK) $(NATIVE_TEST_IMAGE_OBJS) $(O)/native-test/symbols.o
$(O)/lodge-native-test: $(O)/lodge-native-test.debug
	$(Q)objcopy --strip-all $< $@

## native-test    the image for tests: build/lodge-native-test, of threads; build/lodge-native-checked, with all checks
.PHONY: native-test
native-test: $(O)/lodge-native-test $(O)/lodge-native-checked

# --- unit tests: tests/unit/NAME.c -> build/test/bin/NAME -----------------------------------------

UNIT_SRCS := $(sort $(wildcard tests/unit/*.c))
UNIT_BINS := $(UNIT_SRCS:tests/unit/%.c=$(O)/test/bin/%)
TEST_LIB_OBJS := $(patsubst %.c,$(O)/test/%.o,$(sort $(wildcard tests/lib/*.c)))
UNIT_LIBS_decoder_zydis := -lZydis
UNIT_LIBS_share_cpu := -lm
UNIT_LIBS_share_machines := -lm

$(O)/test/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) $(TEST_FLAGS) -c -o $@ $<
$(O)/test/free.a: $(call free_objs,test)
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(O)/test/lib.a: $(TEST_LIB_OBJS)
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(O)/test/native.a: $(NATIVE_TEST_OBJS)
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(O)/test/vmx.a: $(VMX_TEST_OBJS)
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
UNIT_GROUP_vmx := $(O)/test/vmx.a
UNIT_GROUP_vmx_run := $(O)/test/vmx.a
$(O)/test/bin/vmx $(O)/test/bin/vmx_run: $(O)/test/vmx.a
$(O)/test/bin/%: $(O)/test/tests/unit/%.o $(O)/test/lib.a $(O)/test/free.a $(O)/test/native.a
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) $(SANITIZE) -o $@ $(O)/test/tests/unit/$*.o -Wl,--start-group $(O)/test/lib.a $(O)/test/free.a \
	    $(O)/test/native.a $(UNIT_GROUP_$*) -Wl,--end-group $(UNIT_LIBS_$*) -lpthread

# native/'s threads on simulated CPUs (tests/lib/native/sim.h): its headers come before the real ones.
NATIVE_SIM_BINS := $(O)/test/bin/native_scheduler $(O)/test/bin/native_wait
NATIVE_SIM_OBJS := $(patsubst %,$(O)/test/%.o,native/thread native/thread-S native/scheduler native/wait native/seam \
    native/guest_timer tests/lib/native/sim)

$(NATIVE_SIM_OBJS) $(NATIVE_SIM_BINS:$(O)/test/bin/%=$(O)/test/tests/unit/%.o): COMMON := -Itests/lib/native $(COMMON)
$(O)/test/native/%-S.o: native/%.S
	@mkdir -p $(@D)
	$(call quiet,AS,$@)
	$(Q)$(CC) -c -o $@ $<
$(NATIVE_SIM_BINS): $(O)/test/bin/%: $(O)/test/tests/unit/%.o $(NATIVE_SIM_OBJS) $(O)/test/tests/lib/unit.o $(O)/test/free.a
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) $(SANITIZE) -Wl,--wrap=thread_switch,--wrap=thread_begin -o $@ $^

# Of the engines on hardware, what does without it; the tests supply engine/hw.h.
UNIT_LIBS_nested := $(O)/test/engine/nested.o
UNIT_LIBS_svm_state := $(O)/test/engine/svm/state.o $(O)/test/engine/svm/vmcb.o
UNIT_GROUP_speculation := $(O)/test/engine/speculation.o
$(O)/test/bin/speculation: $(UNIT_GROUP_speculation)
$(O)/test/bin/nested: $(UNIT_LIBS_nested)
$(O)/test/bin/svm_state: $(UNIT_LIBS_svm_state)
$(eval $(call free_rule,test,engine))
$(eval $(call free_rule,test,engine/svm))

## unit           unit tests of the freestanding part under ASan and UBSan
unit: $(UNIT_BINS)
	@tools/run-programs.sh $(UNIT_BINS)

# --- fuzzing: tests/fuzz/NAME.c -> build/fuzz/NAME, seeds in tests/fuzz/corpus/NAME ---------------

FUZZ_NAMES := $(patsubst tests/fuzz/%.c,%,$(sort $(wildcard tests/fuzz/*.c)))
FUZZ_LIB := $(patsubst %.c,$(O)/fuzz/obj/%.o,tests/lib/fake_seam.c tests/lib/pc_env.c tests/lib/boot_env.c tests/lib/unit.c)
FUZZ_CFLAGS = $(COMMON) -O1 -g -D_GNU_SOURCE -DLODGE_DEBUG=1 -fno-sanitize-recover=all

$(O)/fuzz/obj/tests/%.o: tests/%.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(FUZZ_CFLAGS) -fsanitize=fuzzer-no-link,address,undefined -c -o $@ $<
$(O)/fuzz/free.a: $(call free_objs,fuzz) $(O)/fuzz/native/acpi.o
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(FUZZ_NAMES:%=$(O)/fuzz/%): $(O)/fuzz/%: $(O)/fuzz/obj/tests/fuzz/%.o $(FUZZ_LIB) $(O)/fuzz/free.a
	$(call quiet,LINK,$@)
	$(Q)$(CC) -fsanitize=fuzzer,address,undefined -o $@ $^

## fuzz           builds the libFuzzer targets; tools/fuzz.sh runs them
.PHONY: fuzz
fuzz: $(FUZZ_NAMES:%=$(O)/fuzz/%)

# --- differential test: the emulator against this machine's processor ----------------------------
# The production objects without sanitizers (their shadow memory is where its sandbox has to be),
# and the program position-independent, so that nothing else lies below 2 GiB.

DIFFERENTIAL_OBJS := $(patsubst %.c,$(O)/differential/%.o,$(sort $(wildcard tests/differential/*.c)) \
    tests/lib/cpu_env.c tests/lib/fake_seam.c)
DIFFERENTIAL_FREE := $(patsubst %.c,$(O)/hosted/%.o,$(filter isa/% core/% x86/%,$(FREE_SRCS)))

$(O)/differential/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) -O2 -g -fPIE -D_GNU_SOURCE -mno-red-zone -c -o $@ $<
$(O)/differential/differential: $(DIFFERENTIAL_OBJS) $(DIFFERENTIAL_FREE)
	$(call quiet,LINK,$@)
	$(Q)$(CC) -pie -o $@ $^ -lpthread

# Its blocks: translator, interpreter and processor (tests/differential/blocks/blocks.h).
BLOCKS_OBJS := $(patsubst %.c,$(O)/differential/%.o,$(sort $(wildcard tests/differential/blocks/*.c))) \
    $(filter-out %/differential/main.o,$(DIFFERENTIAL_OBJS))
BLOCKS_FREE := $(patsubst %.c,$(O)/hosted/%.o,$(filter isa/% core/% x86/% engine/soft/%,$(FREE_SRCS)))
$(O)/differential/blocks: $(BLOCKS_OBJS) $(BLOCKS_FREE)
	$(call quiet,LINK,$@)
	$(Q)$(CC) -pie -o $@ $^ -lpthread

## differential   a million random instructions, here and in the emulator (DIFFERENTIAL_COUNT)
.PHONY: differential
differential: $(O)/differential/differential
	$(O)/differential/differential

# --- guests -------------------------------------------------------------------------------------

G := $(O)/guests
KERNELS := debian-6.1-cloud debian-6.1-generic debian-6.12-cloud
INITRDS := $(KERNELS:%=$(G)/%/initrd)
# All but that of `make bench`, which has an initrd of its own
USER_PROGRAMS := $(patsubst guests/user/%.c,$(G)/user/%,$(filter-out %/bench.c, \
    $(sort $(wildcard guests/user/*.c))))

-include guests/guests.mk

$(G)/.fetched: tools/fetch-guests.sh
	tools/fetch-guests.sh $(G)
	@touch $@
$(G)/user/%: guests/user/%.c
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) -O2 -g0 -Wall -Wextra -Werror -static -s -o $@ $< -lm -lpthread
$(G)/initrd: $(G)/.fetched tools/make-initrd.sh $(wildcard guests/initrd/*) $(USER_PROGRAMS)
	$(call quiet,INITRD,$@)
	$(Q)tools/make-initrd.sh $@ $(G)/tools/busybox $(wildcard guests/initrd/*) $(USER_PROGRAMS)
$(INITRDS): $(G)/initrd
	ln -f $< $@

## guests         the stock guests: build/guests/NAME/{vmlinuz,initrd}
.PHONY: guests
guests: $(INITRDS)

# --- what `make bench` runs in guests (docs/bench.md) -----------------------------------------------

B := $(O)/bench

$(B)/initrd: $(G)/.fetched tools/make-initrd.sh guests/initrd/init $(G)/user/bench
	@mkdir -p $(@D)
	$(call quiet,INITRD,$@)
	$(Q)tools/make-initrd.sh $@ $(G)/tools/busybox guests/initrd/init $(G)/user/bench
# A Debian with gcc and python3, and what they are given to do
$(B)/work.c: guests/user/selftest.c
	@mkdir -p $(@D)
	$(Q)cp $< $@
$(B)/userland: $(G)/.fetched tools/make-userland.sh $(B)/work.c $(wildcard guests/userland/*)
	tools/make-userland.sh $@ gcc,libc6-dev,python3-minimal $(G)/tools/busybox $(B)/work.c $(wildcard guests/userland/*)

# A Debian with stress-ng, for tests/stock/stress.py
$(G)/stress: $(G)/.fetched tools/make-userland.sh guests/stress/init $(G)/user/jit
	tools/make-userland.sh $@ stress-ng $(G)/tools/busybox guests/stress/init $(G)/user/jit

## bench-guests   what make bench runs in guests
.PHONY: bench-guests
bench-guests: guests $(B)/initrd $(B)/userland

# --- the rig: an emulated machine with AMD-V, for the kvm engine (docs/rig.md) ---------------------

RIG := $(O)/rig

$(RIG)/host.img: tools/make-rig.sh
	tools/make-rig.sh $@
$(RIG)/initrd: $(G)/.fetched tools/make-initrd.sh $(wildcard tools/rig/*)
	$(call quiet,INITRD,$@)
	$(Q)tools/make-initrd.sh $@ $(G)/tools/busybox $(wildcard tools/rig/*) \
	    $(G)/debian-6.1-cloud/modules/*

## rig            the machine in which tools/run-rig.sh runs jobs under kvm
.PHONY: rig
rig: $(RIG)/host.img $(RIG)/initrd

clean:
	rm -rf $(O)

# --- unit tests of the hosted home: tests/hosted/NAME.c -> build/test/hosted-bin/NAME -------------
# They use the real seam, so of tests/lib only the frame.

HOSTED_UNIT_BINS := $(patsubst tests/hosted/%.c,$(O)/test/hosted-bin/%,$(sort $(wildcard tests/hosted/*.c)))

$(HOSTED_SRCS:%.c=$(O)/test/%.o): $(O)/test/%.o: %.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(COMMON) $(TEST_FLAGS) -c -o $@ $<
$(O)/test/hosted.a: $(patsubst %.c,$(O)/test/%.o,$(filter-out hosted/main.c,$(HOSTED_SRCS)))
	$(call quiet,AR,$@)
	$(Q)rm -f $@.$$$$ && ar rcs $@.$$$$ $^ && mv $@.$$$$ $@
$(O)/test/hosted-bin/%: $(O)/test/tests/hosted/%.o $(O)/test/tests/lib/unit.o $(O)/test/hosted.a $(O)/test/free.a
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) $(SANITIZE) -o $@ $(O)/test/tests/hosted/$*.o $(O)/test/tests/lib/unit.o \
	    -Wl,--start-group $(O)/test/hosted.a $(O)/test/free.a -Wl,--end-group -lpthread

# Those of the kvm engine, on a KVM that is not there (tests/lib/fake_kvm.h): tests/engine/NAME.c ->
# build/test/engine-bin/NAME. They use the fake seam.
ENGINE_UNIT_BINS := $(patsubst tests/engine/%.c,$(O)/test/engine-bin/%,$(sort $(wildcard tests/engine/*.c)))
ENGINE_KVM_OBJS := $(patsubst %.c,$(O)/test/%.o,$(wildcard engine/kvm/*.c))

$(O)/test/engine-bin/%: $(O)/test/tests/engine/%.o $(ENGINE_KVM_OBJS) $(O)/test/lib.a $(O)/test/free.a
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) $(SANITIZE) -Wl,--wrap=open,--wrap=ioctl -o $@ $(O)/test/tests/engine/$*.o \
	    $(ENGINE_KVM_OBJS) -Wl,--start-group $(O)/test/lib.a $(O)/test/free.a -Wl,--end-group -lpthread

# And the whole program with it (tests/cli/host_failures.py): the production objects.
FAKE_KVM_OBJS := $(patsubst %,$(O)/kvm-test/tests/lib/%.o,fake_kvm fake_kvm_wrap fake_kvm_program)
$(O)/test/lodge-fake-kvm: $(FAKE_KVM_OBJS) $(call free_objs,hosted) $(HOSTED_OBJS)
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(call hosted_link,-Wl$(comma)--wrap=open$(comma)--wrap=ioctl$(comma)--wrap=stat) -o $@

## hosted-unit    unit tests of the hosted home and the kvm engine under ASan and UBSan
.PHONY: hosted-unit
hosted-unit: $(HOSTED_UNIT_BINS) $(ENGINE_UNIT_BINS)
	@tools/run-programs.sh $(HOSTED_UNIT_BINS) $(ENGINE_UNIT_BINS)

# --- tests of the kvm engine's insides: tests/kvm/NAME.c -> build/kvm-test/NAME --------------------
# The production objects: they are run in the rig, where nothing is to spare. KVM_TEST_PROGRAMS have a
# main function, the other files of tests/kvm are what they share.

KVM_TEST_PROGRAMS := clock deliver events leftovers move same state
KVM_TEST_BINS := $(KVM_TEST_PROGRAMS:%=$(O)/kvm-test/%)
KVM_TEST_SHARED := $(patsubst %.c,$(O)/kvm-test/%.o,$(filter-out \
    $(KVM_TEST_PROGRAMS:%=tests/kvm/%.c),$(wildcard tests/kvm/*.c)) tests/lib/unit.c)
KVM_TEST_OBJS := $(KVM_TEST_SHARED) $(call free_objs,hosted) \
    $(filter-out $(O)/hosted/hosted/main.o,$(HOSTED_OBJS))

$(O)/kvm-test/%.o: %.c $(LIBC_CHOSEN)
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) $(HOSTED_INCLUDE) $(COMMON) -O2 -g -fPIE -D_GNU_SOURCE -c -o $@ $<
$(KVM_TEST_BINS): $(O)/kvm-test/%: $(O)/kvm-test/tests/kvm/%.o $(KVM_TEST_OBJS)
	$(call quiet,LINK,$@)
	$(Q)$(call hosted_link) -o $@

## kvm-test       programs that test the kvm engine from inside; tests/kvm/job runs them, in the rig
.PHONY: kvm-test
kvm-test: $(KVM_TEST_BINS)

# --- the README's commands ----------------------------------------------------------------------

.PHONY: run test test-nightly test-kvm test-native bench setup-run setup-test setup-kvm setup-bench test-programs
setup-run:
	@tools/setup.sh run
setup-test:
	@tools/setup.sh test
setup-kvm:
	@tools/setup.sh kvm
setup-bench:
	@tools/setup.sh bench

## run            sets up, builds, and boots Debian: to its shell with a terminal, else scripted
run: setup-run
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge guests
	@tools/run.sh $(O)

# Which engine runs the guests. With kvm: only what runs guests, on this machine's own hardware.
ENGINE ?= soft
$(if $(filter soft kvm,$(ENGINE)),,$(error ENGINE is soft or kvm, not $(ENGINE)))
export LODGE_ENGINE = $(ENGINE)

## test           sets up and passes all tests (what CI runs); ENGINE=kvm: guests on real VT-x or AMD-V
ifeq ($(ENGINE),kvm)
test: setup-test
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge guests own-guests
	@tests/kvm/hardware.sh $(O)
	@LODGE_LOGS=$(O)/logs-kvm tools/run-tests.sh tests/suites-kvm $(SUITES)
else
test: setup-test
	@$(MAKE) --no-print-directory -j$(shell nproc) test-programs
	-@$(MAKE) --no-print-directory rig $(G)/stress
	@LODGE_LOGS=$(O)/logs tools/run-tests.sh tests/suites $(SUITES)
endif

## test-nightly   the same at full count
test-nightly: setup-test
	@$(MAKE) --no-print-directory -j$(shell nproc) test-programs
	-@$(MAKE) --no-print-directory rig $(G)/stress
	@LODGE_NIGHTLY=1 LODGE_LOGS=$(O)/logs-nightly tools/run-tests.sh tests/suites-nightly $(SUITES)

## test-kvm       all tests of the kvm engine, in an emulated machine with AMD-V (docs/rig.md)
test-kvm: setup-kvm
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge guests own-guests kvm-test rig
	@LODGE_LOGS=$(O)/logs tools/run-tests.sh tests/suites-nightly kvm

## test-native    all tests of the bare-metal home and its engines, at full count, in emulated machines (docs/native.md)
test-native: setup-test
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge guests own-guests native native-test
	@LODGE_NIGHTLY=1 LODGE_LOGS=$(O)/logs-native tools/run-tests.sh tests/suites-nightly \
	    $$(cut -f 1 tests/suites-nightly | grep '^native')

## bench          the soft engine beside qemu-system-x86_64 -accel tcg and the bare machine (docs/bench.md)
bench: setup-bench
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge bench-guests
	@python3 tools/bench.py $(O); first=$$?; python3 tools/bench_saved.py $(O) && exit $$first

## bench-kvm      exits, instructions and memory beside qemu-system-x86_64 -accel kvm, in the rig
.PHONY: bench-kvm
bench-kvm: setup-bench
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge guests own-guests rig
	@tools/bench-kvm.sh $(O)

## bench-native   exits and instructions of the bare-metal image beside kvm_amd and QEMU (docs/bench.md)
$(B)/count.so: tools/bench-native/count.c
	@mkdir -p $(@D)
	$(call quiet,CC,$@)
	$(Q)$(CC) -O2 -Wall -Wextra -fPIC -shared -fvisibility=hidden -o $@ $<
$(B)/xen: tools/fetch-xen.sh
	tools/fetch-xen.sh $@
.PHONY: bench-native
bench-native: setup-bench
	@$(MAKE) --no-print-directory -j$(shell nproc) $(O)/lodge native guests own-guests $(B)/count.so
	-@$(MAKE) --no-print-directory rig $(B)/xen
	@python3 tools/bench_native.py $(O)

test-programs: all $(UNIT_BINS) $(HOSTED_UNIT_BINS) $(ENGINE_UNIT_BINS) $(O)/test/lodge-fake-kvm \
    $(O)/differential/differential $(O)/differential/blocks fuzz $(O)/asan/lodge guests own-guests kvm-test $(B)/initrd native native-test

-include $(shell find $(O) -type f -name '*.d' 2>/dev/null)
.SECONDARY:
.DELETE_ON_ERROR:
