# SPDX-License-Identifier: Apache-2.0
# Copyright The Lodge authors
#
# Our own guests (guests/README.md): NAME.c of guests/system, die, inventory and bench become
# build/guests/bin/NAME.elf. NAME32.c is a 32-bit guest (Multiboot, ELF32), the others are 64-bit
# (PVH, ELF64); NAME_linux.c is a Linux image as well, NAME_linux.bzimage. Included by the top Makefile.

OWN_GUEST_SRCS := $(sort $(wildcard guests/system/*.c guests/die/*.c guests/inventory/*.c \
    guests/bench/*.c))
OWN_GUEST_NAMES := $(basename $(notdir $(OWN_GUEST_SRCS)))
OWN_GUESTS := $(patsubst %,$(G)/bin/%.elf,$(filter-out %_linux,$(OWN_GUEST_NAMES))) \
    $(patsubst %,$(G)/bin/%.bzimage,$(filter %_linux,$(OWN_GUEST_NAMES)))
OWN_GUEST_FLAGS := -std=gnu17 -I. -Iinclude $(WARNINGS) -MMD -MP -O2 -g -ffreestanding -nostdinc \
    -isystem $(CC_INCLUDE) -mgeneral-regs-only -mno-red-zone -fno-pic -fno-stack-protector \
    -fno-asynchronous-unwind-tables -fno-strict-aliasing -fcf-protection=none \
    -Wno-array-bounds
OWN_GUEST_LDFLAGS := -T guests/lib/guest.lds -nostdlib -static -z noexecstack -z max-page-size=4096 \
    --no-warn-rwx-segments
OWN_GUEST_LIB64 := start64 guest long
OWN_GUEST_LIB32 := start32 guest
# What guest $(1) has beyond that
own_guest_extra = $(if $(filter boot_%,$(1)),boot) $(if $(filter %_linux,$(1)),startlinux)

# $(1): 32 or 64
define own_guest_rules
$(G)/obj$(1)/%.o: guests/%.c
	@mkdir -p $$(@D)
	$$(call quiet,CC,$$@)
	$$(Q)$$(CC) -m$(1) $$(OWN_GUEST_FLAGS) -c -o $$@ $$<
$(G)/obj$(1)/%.o: guests/%.S
	@mkdir -p $$(@D)
	$$(call quiet,AS,$$@)
	$$(Q)$$(CC) -m$(1) -I. -MMD -MP -c -o $$@ $$<
endef
$(eval $(call own_guest_rules,32))
$(eval $(call own_guest_rules,64))

define own_guest_link
$(G)/bin/$(1).elf: $(G)/obj$(3)/$(2)/$(1).o guests/lib/guest.lds \
    $(patsubst %,$(G)/obj$(3)/lib/%.o,$(OWN_GUEST_LIB$(3)) $(call own_guest_extra,$(1)))
	@mkdir -p $$(@D)
	$$(call quiet,LINK,$$@)
	$$(Q)ld -m $(if $(filter 32,$(3)),elf_i386,elf_x86_64) $$(OWN_GUEST_LDFLAGS) -o $$@ $$(filter %.o,$$^)
endef
$(foreach s,$(OWN_GUEST_SRCS),$(eval $(call \
    own_guest_link,$(basename $(notdir $(s))),$(notdir $(patsubst %/,%,$(dir $(s)))),$(if \
    $(filter %32.c,$(s)),32,64))))

$(G)/bin/%.bzimage: $(G)/bin/%.elf
	$(call quiet,OBJCOPY,$@)
	$(Q)objcopy -O binary $< $@

# That of the command line's tests, for where they find no compiler (the rig).
$(G)/cli.elf: tests/cli/guest.S
	@mkdir -p $(@D)
	$(call quiet,LINK,$@)
	$(Q)$(CC) -m32 -c -Iinclude -o $(@:.elf=.o) $<
	$(Q)ld -m elf_i386 -N -Ttext=0x100000 --no-warn-rwx-segments -o $@ $(@:.elf=.o)

## own-guests     our own guests: build/guests/bin/NAME.elf
.PHONY: own-guests
own-guests: $(OWN_GUESTS) $(G)/cli.elf
