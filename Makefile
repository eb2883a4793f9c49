# imgtool: one library (libimgtool) and one command (imgtool).
#
#   make            builds build/imgtool, build/libimgtool.a and build/libimgtool.so
#   make help       lists every target
#
# Settings, on the command line or in the environment:
#   CC=clang            the compiler (gcc and clang work)
#   BUILD=dir           where build products go (default: build)
#   CFLAGS, CPPFLAGS, LDFLAGS   added to the project's own flags (CFLAGS default: -O2 -g)
#   WITH_LIBDEFLATE=no  inflate and deflate with zlib alone, even where libdeflate is installed
#   WITH_LIBGUESTFS=no  no imgtool-mount (imgtool mount, ls, cat, ...)
#   WITH_LIBBLKID=no    no search for file systems, even where libblkid and libseccomp are there
#   CI=true             warnings are errors, a skipped test is a failure
#   TESTS="pattern"     run only the tests whose name matches (make check and its siblings)
#   V=1                 show whole commands

VERSION   = 0.1.0
SOVERSION = 0

BUILD  ?= build
PREFIX ?= /usr/local
LIBEXECDIR = $(PREFIX)/libexec/imgtool
JOBS   ?= $(shell nproc)
ifeq ($(origin CC),default)
CC = gcc
endif

# The first target of the file is the default one.
all: ## Build the command and the library (default)
.PHONY: all FORCE
.DELETE_ON_ERROR:

Q = $(if $(V),,@)
say = $(if $(V),,@printf '  %-7s %s\n' '$(1)' '$(2)')

# Targets that first install packages start a second make for the rest, since the libraries are
# looked for when the Makefile is read. It runs in parallel unless the caller chose a -j.
DEPS    = @tests/setup/deps
SUBMAKE = @$(MAKE) --no-print-directory \
          $(if $(filter -j% --jobserver%,$(MAKEFLAGS)),,-j$(JOBS))

# ---- sources ------------------------------------------------------------------------------------

LIB_SRC   := $(sort $(wildcard lib/*.c lib/ops/*.c formats/*.c formats/*/*.c))
TOOL_SRC  := $(sort $(wildcard tools/*.c))
MOUNT_SRC := $(sort $(wildcard tools/mount/*.c))
UNIT_ALL  := $(sort $(wildcard tests/unit/*.c))
UNIT_SRC  := $(filter tests/unit/test_%,$(UNIT_ALL))
UNIT_HELP := $(filter-out $(UNIT_SRC),$(UNIT_ALL))
HELPER_SRC := $(filter-out tests/interop/served.c,\
               $(sort $(wildcard tests/cli/*.c tests/interop/*.c tests/bench/*.c)))
CRASH_SRC := $(filter-out tests/crash/preload.c tests/crash/calls.c,\
               $(sort $(wildcard tests/crash/*.c)))
FUZZ_SRC  := $(sort $(wildcard tests/fuzz/fuzz_*.c))

obj = $(patsubst %.c,$(BUILD)/obj/%.o,$(1))
LIB_OBJ  := $(call obj,$(LIB_SRC))
TOOL_OBJ := $(call obj,$(TOOL_SRC))
MOUNT_OBJ := $(call obj,$(MOUNT_SRC) $(filter-out tools/imgtool.c tools/cmd_%,$(TOOL_SRC)))

UNIT_BIN   := $(patsubst %.c,$(BUILD)/%,$(UNIT_SRC))
HELPER_BIN := $(patsubst %.c,$(BUILD)/%,$(HELPER_SRC)) $(BUILD)/tests/interop/served.so
REPLAY_BIN := $(patsubst tests/fuzz/fuzz_%.c,$(BUILD)/tests/fuzz/replay_%,$(FUZZ_SRC))
CRASH_BIN  := $(addprefix $(BUILD)/tests/crash/,crash preload.so calls.so)
FUZZ_BIN   := $(patsubst tests/fuzz/%.c,$(BUILD)/%,$(FUZZ_SRC))

# ---- flags --------------------------------------------------------------------------------------

CFLAGS ?= -O2 -g
WARN    = -Wall -Wextra -Wshadow $(if $(filter true,$(CI)),-Werror)
DEFS    = -D_GNU_SOURCE -D_FILE_OFFSET_BITS=64 -DIMGTOOL_VERSION='"$(VERSION)"'
LIBS    = -lz -lzstd -ljson-c -lpthread -lm

# libdeflate is used where it is installed.
WITH_LIBDEFLATE ?= auto
ifneq ($(WITH_LIBDEFLATE),no)
FOUND := $(shell echo '#include <libdeflate.h>' | \
           $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(FOUND),yes)
DEFS += -DHAVE_LIBDEFLATE
LIBS := -ldeflate $(LIBS)
else ifeq ($(WITH_LIBDEFLATE),yes)
$(error WITH_LIBDEFLATE=yes, but libdeflate.h is not installed)
endif
endif

# libblkid and libseccomp, which find partitions and file systems, are used where both are
# installed.
WITH_LIBBLKID ?= auto
ifneq ($(WITH_LIBBLKID),no)
FOUND := $(shell printf '#include <blkid/blkid.h>\n#include <seccomp.h>\n' | \
           $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(FOUND),yes)
DEFS += -DHAVE_BLKID
LIBS := -lblkid -lseccomp $(LIBS)
else ifeq ($(WITH_LIBBLKID),yes)
$(error WITH_LIBBLKID=yes, but blkid/blkid.h or seccomp.h is not installed)
endif
endif

# imgtool-mount is built where libguestfs is installed.
WITH_LIBGUESTFS ?= auto
ifneq ($(WITH_LIBGUESTFS),no)
FOUND := $(shell echo '#include <guestfs.h>' | \
           $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 && echo yes)
ifeq ($(FOUND),yes)
MOUNT = $(BUILD)/imgtool-mount
else ifeq ($(WITH_LIBGUESTFS),yes)
$(error WITH_LIBGUESTFS=yes, but guestfs.h is not installed)
endif
endif

# SAN=address, SAN=undefined: set by the targets asan, ubsan and fuzz. COVERAGE=1: by coverage.
SAN_FLAGS = $(if $(SAN),-fsanitize=$(SAN) -fno-sanitize-recover=all -fno-omit-frame-pointer) \
            $(if $(COVERAGE),--coverage)

BASE_FLAGS = -std=gnu11 -fPIC -fvisibility=hidden $(WARN) $(DEFS) $(SAN_FLAGS) $(CPPFLAGS) $(CFLAGS)
LINK       = $(CC) $(CFLAGS) $(SAN_FLAGS) $(LDFLAGS)

# ---- the build ----------------------------------------------------------------------------------

all: $(BUILD)/imgtool $(BUILD)/libimgtool.a $(BUILD)/libimgtool.so $(MOUNT)

$(BUILD)/libimgtool.a: $(LIB_OBJ) $(BUILD)/sources
	$(call say,AR,$@)
	$(Q)rm -f $@ && ar rcs $@ $(LIB_OBJ)

# A sanitizer's run-time library belongs to the program, hence no -z defs there.
$(BUILD)/libimgtool.so: $(LIB_OBJ) $(BUILD)/sources
	$(call say,LD,$@)
	$(Q)$(LINK) -shared -Wl,-soname,libimgtool.so.$(SOVERSION) -Wl,--exclude-libs,ALL \
	    $(if $(SAN),,-Wl,-z,defs) -o $@ $(LIB_OBJ) $(LIBS)
	$(Q)ln -sf libimgtool.so $@.$(SOVERSION)

# The command carries the library inside, to start fast and to run from anywhere.
$(BUILD)/imgtool: $(TOOL_OBJ) $(BUILD)/libimgtool.a $(BUILD)/sources
	$(call say,LD,$@)
	$(Q)$(LINK) -o $@ $(TOOL_OBJ) $(BUILD)/libimgtool.a $(LIBS)

# What imgtool runs for the commands that need libguestfs: the one program that is linked with it.
$(BUILD)/imgtool-mount: $(MOUNT_OBJ) $(BUILD)/libimgtool.a $(BUILD)/sources
	$(call say,LD,$@)
	$(Q)$(LINK) -o $@ $(MOUNT_OBJ) $(BUILD)/libimgtool.a -lguestfs $(LIBS)

# One compile rule; INCLUDE says what each room may see.
$(BUILD)/obj/lib/%.o $(BUILD)/obj/formats/%.o: INCLUDE = -I.
$(BUILD)/obj/tools/%.o: INCLUDE = -Ilib
$(BUILD)/obj/tests/%.o: INCLUDE = -I. -Ilib

$(BUILD)/obj/%.o: %.c $(BUILD)/flags | $(BUILD)/headers
	$(call say,CC,$<)
	$(Q)mkdir -p $(@D)
	$(Q)$(CC) $(INCLUDE) $(BASE_FLAGS) -MMD -MP -c -o $@ $<

# Objects of test programs are kept, although only pattern rules name them.
TEST_OBJ := $(call obj,$(UNIT_ALL) $(HELPER_SRC) $(CRASH_SRC) $(FUZZ_SRC) \
                       tests/fuzz/replay_main.c)
.SECONDARY: $(TEST_OBJ)

-include $(patsubst %.o,%.d,$(LIB_OBJ) $(TOOL_OBJ) $(MOUNT_OBJ) $(TEST_OBJ))

# Two notes that change only when their text does: the flags (new flags: compile all again) and
# the lists of sources (one removed: link again).
$(BUILD)/flags: export NOW = $(CC) $(BASE_FLAGS) $(LDFLAGS) $(LIBS)
$(BUILD)/sources: export NOW = $(LIB_SRC) $(TOOL_SRC) $(MOUNT_SRC) $(UNIT_HELP) $(CRASH_SRC)
$(BUILD)/flags $(BUILD)/sources: FORCE
	@mkdir -p $(@D); echo "$$NOW" | cmp -s - $@ || echo "$$NOW" >$@

# Say plainly what is missing, before the first compiler error does it badly.
$(BUILD)/headers: NEED = zlib.h zstd.h json-c/json.h
$(BUILD)/headers-tests: NEED = cmocka.h
$(BUILD)/headers $(BUILD)/headers-tests: $(BUILD)/flags
	@missing=; for h in $(NEED); do \
	    echo "#include <$$h>" | $(CC) $(CPPFLAGS) -E -x c - >/dev/null 2>&1 || \
	    missing="$$missing $$h"; done; \
	if [ -n "$$missing" ]; then \
	    echo "Missing headers:$$missing. Run 'make deps' to install what is needed." >&2; exit 1; \
	fi; touch $@

# ---- test programs ------------------------------------------------------------------------------

$(call obj,$(UNIT_ALL)): | $(BUILD)/headers-tests

$(BUILD)/tests/unit/%: $(BUILD)/obj/tests/unit/%.o $(call obj,$(UNIT_HELP)) \
                       $(BUILD)/libimgtool.a $(BUILD)/sources
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(LINK) $(UNIT_LINK) -o $@ $(filter %.o %.a,$^) -lcmocka $(LIBS)

# These stand between the library and the allocator.
$(addprefix $(BUILD)/tests/unit/,test_alloc test_rebase test_relocate test_change_faults \
    test_change_faults_guest \
    test_change_faults_repair): UNIT_LINK = $(addprefix -Wl$(comma)--wrap=,malloc calloc realloc \
    aligned_alloc free strdup strndup realpath getcwd open_memstream asprintf vasprintf)
$(addprefix $(BUILD)/tests/unit/,test_convert_faults test_target_faults): \
    UNIT_LINK = $(addprefix -Wl$(comma)--wrap=,malloc calloc realloc aligned_alloc free strdup \
    strndup realpath getcwd open_memstream asprintf vasprintf pread64 pwrite64 ftruncate64 fsync \
    linkat renameat2)
$(BUILD)/tests/unit/test_resume_faults: UNIT_LINK = $(addprefix -Wl$(comma)--wrap=,pwrite64 fsync \
    fdatasync ftruncate64 renameat2 unlink clock_gettime)
$(BUILD)/tests/unit/test_convert_order: UNIT_LINK = $(addprefix -Wl$(comma)--wrap=,pwrite64 fsync)
comma = ,

$(BUILD)/tests/fuzz/replay_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o \
                              $(BUILD)/obj/tests/fuzz/replay_main.o $(BUILD)/libimgtool.a
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(LINK) -o $@ $(filter %.o %.a,$^) $(LIBS)

$(BUILD)/tests/crash/crash: $(call obj,$(CRASH_SRC)) $(BUILD)/libimgtool.a $(BUILD)/sources
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(LINK) -o $@ $(filter %.o %.a,$^) $(LIBS)

# Live inside other programs: no sanitizer, nothing of ours.
$(BUILD)/tests/%.so: tests/%.c tests/crash/crash_log.h
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(CC) -std=gnu11 -O2 -fPIC -shared $(WARN) -D_GNU_SOURCE -o $@ $< -ldl

$(BUILD)/tests/%: $(BUILD)/obj/tests/%.o $(BUILD)/libimgtool.a
	$(call say,LD,$@)
	$(Q)mkdir -p $(@D) && $(LINK) -o $@ $(filter %.o %.a,$^) $(LIBS)

test-programs: $(UNIT_BIN) $(HELPER_BIN) $(CRASH_BIN) $(REPLAY_BIN) ## Build the test programs, run nothing
.PHONY: test-programs

# What the test scripts may count on in their environment.
TEST_ENV = BUILD='$(abspath $(BUILD))' SRCDIR='$(CURDIR)' CC='$(CC)' JOBS='$(JOBS)' \
           TESTS='$(TESTS)' IMGTOOL='$(abspath $(BUILD))/imgtool' \
           BUILD_FLAGS='$(strip $(SAN_FLAGS))' WITH_LIBDEFLATE='$(WITH_LIBDEFLATE)'

# Guests' disks take long to make: meanwhile the rest is compiled.
GUEST_TESTS = $(if $(MOUNT),$(if $(TESTS),$(findstring guest/,$(TESTS)),yes))

guest-disks:
	@$(TEST_ENV) python3 tests/guest/disks.py >/dev/null
.PHONY: guest-disks

run-tests: all test-programs $(if $(GUEST_TESTS),guest-disks)
	@$(TEST_ENV) tests/run $(RUN_ARGS)
.PHONY: run-tests

# ---- for people ---------------------------------------------------------------------------------

deps: ## Install what the build and the tests need (Debian)
	$(DEPS) build test guest

demo: ## Build, lay out a four-layer chain in build/demo and look at it
	$(DEPS) build demo
	$(SUBMAKE) all
	@tests/setup/demo $(BUILD)

check: ## Install what is missing, build, run all tests
	$(DEPS) build test guest
	$(SUBMAKE) run-tests

asan: ## The same tests, built with the address sanitizer
	$(DEPS) build test guest sanitizers
	$(SUBMAKE) BUILD=$(BUILD)/asan SAN=address run-tests

ubsan: ## The same tests, built with the undefined behaviour sanitizer
	$(DEPS) build test guest sanitizers
	$(SUBMAKE) BUILD=$(BUILD)/ubsan SAN=undefined run-tests

valgrind: ## The unit tests under valgrind
	$(DEPS) build test valgrind
	$(SUBMAKE) RUN_ARGS='--valgrind unit' run-tests

coverage: ## Run the tests with gcc's counters and print the lines covered, file by file
	$(DEPS) build test guest
	@find $(BUILD)/coverage -name '*.gcda' -delete 2>/dev/null || true
	$(SUBMAKE) BUILD=$(BUILD)/coverage CC=gcc CFLAGS='-O0 -g' COVERAGE=1 run-tests; \
	    status=$$?; tests/setup/coverage $(BUILD)/coverage; exit $$status

FUZZ_TIME ?= 60
fuzz: ## Fuzz each target for FUZZ_TIME=60 seconds with clang's libFuzzer
	$(DEPS) build fuzz
	$(SUBMAKE) BUILD=$(BUILD)/fuzz CC=clang SAN=fuzzer-no-link,address fuzz-programs
	@tests/setup/fuzz $(BUILD)/fuzz $(FUZZ_TIME)

bench: ## Measure speed (tests/bench/run)
	$(DEPS) build bench guest
	$(SUBMAKE) all $(filter $(BUILD)/tests/bench/%,$(HELPER_BIN))
	@$(TEST_ENV) tests/bench/run

CRASH = $(TEST_ENV) $(BUILD)/tests/crash/crash

crash: ## Power failures at 10,000 instants a command (CRASH_STATES), and QEMU's own beside
	$(DEPS) build test
	$(SUBMAKE) all $(CRASH_BIN)
	@CRASH_STATES=$(or $(CRASH_STATES),10000) $(CRASH) --qemu-rows

nightly: ## Random runs at length: 2,000 sequences of guest writes (SEQUENCES), 1,500 chains (CHAINS)
	$(DEPS) build test
	$(SUBMAKE) all test-programs
	@tmp=$$(mktemp -d) && trap 'rm -rf "$$tmp"' EXIT && export TMPDIR=$$tmp && \
	    SEQUENCES=$(or $(SEQUENCES),2000) $(TEST_ENV) tests/interop/test_random_writes && \
	    CHAINS=$(or $(CHAINS),1500) $(TEST_ENV) tests/interop/test_chains && \
	    CHAIN_STATES=10000 $(TEST_ENV) tests/crash/test_chains

guest: ## Guests' files at length: 50 mounts in a row (CYCLES), every disk in every form; for root, as root too
	$(DEPS) build test guest
	$(SUBMAKE) all test-programs guest-disks
	@export CYCLES=$(or $(CYCLES),50) $(TEST_ENV) && tests/guest/test_mount -v Long && \
	    { test "$$(id -u)" != 0 || GUEST_USER=root tests/guest/test_mount -v Long; }

crash-mutants: ## Each flush left out, in the runs and in the sources: the crash tests must find it
	$(DEPS) build test
	$(SUBMAKE) all $(CRASH_BIN)
	@$(CRASH) --no-qemu --drop
	@$(TEST_ENV) tests/crash/mutants

law: all ## Check the dependency law alone
	@$(TEST_ENV) tests/law

.PHONY: crash crash-mutants guest nightly deps demo check asan ubsan valgrind coverage fuzz bench law

# libFuzzer brings its own main; the programs land beside their corpus in build/fuzz.
fuzz-programs: $(FUZZ_BIN)
$(BUILD)/fuzz_%: $(BUILD)/obj/tests/fuzz/fuzz_%.o $(BUILD)/libimgtool.a
	$(call say,LD,$@)
	$(Q)$(CC) $(CFLAGS) -fsanitize=fuzzer,address $(LDFLAGS) -o $@ $(filter %.o %.a,$^) $(LIBS)
.PHONY: fuzz-programs

tidy: ## Static analysis: clang-tidy and cppcheck
	$(DEPS) build tidy
	@tests/setup/tidy $(DEFS)

format: ## Rewrite the sources with clang-format
	$(DEPS) format
	@find lib formats tools tests -name '*.[ch]' -print0 | xargs -0r clang-format -i

.PHONY: tidy format

# ---- installation -------------------------------------------------------------------------------

BINDIR     = $(PREFIX)/bin
LIBDIR     = $(PREFIX)/lib
INCLUDEDIR = $(PREFIX)/include
MANDIR     = $(PREFIX)/share/man
COMPDIR    = $(PREFIX)/share/bash-completion/completions
MAN_PAGES  = $(wildcard tools/man/*.1)
COMPLETION = $(wildcard tools/completion/imgtool)
under      = $(patsubst $(PREFIX)/%,$${prefix}/%,$(1))

install: all ## Install under PREFIX=/usr/local (DESTDIR is honoured)
	@$(MAKE) --no-print-directory install-files

# The copying alone, for the test of it.
install-files:
	install -D -m 755 $(BUILD)/imgtool $(DESTDIR)$(BINDIR)/imgtool
	$(if $(MOUNT),install -D -m 755 $(MOUNT) $(DESTDIR)$(LIBEXECDIR)/imgtool-mount)
	install -D -m 644 lib/imgtool.h $(DESTDIR)$(INCLUDEDIR)/imgtool.h
	install -D -m 644 $(BUILD)/libimgtool.a $(DESTDIR)$(LIBDIR)/libimgtool.a
	install -D -m 644 $(BUILD)/libimgtool.so $(DESTDIR)$(LIBDIR)/libimgtool.so.$(VERSION)
	ln -sf libimgtool.so.$(VERSION) $(DESTDIR)$(LIBDIR)/libimgtool.so.$(SOVERSION)
	ln -sf libimgtool.so.$(SOVERSION) $(DESTDIR)$(LIBDIR)/libimgtool.so
	install -d $(DESTDIR)$(LIBDIR)/pkgconfig
	printf '%s\n' 'prefix=$(PREFIX)' 'libdir=$(call under,$(LIBDIR))' \
	    'includedir=$(call under,$(INCLUDEDIR))' '' 'Name: imgtool' \
	    'Description: Read and write disk images (qcow2, raw)' 'Version: $(VERSION)' \
	    'Cflags: -I$${includedir}' 'Libs: -L$${libdir} -limgtool' \
	    'Libs.private: $(LIBS)' >$(DESTDIR)$(LIBDIR)/pkgconfig/imgtool.pc
	$(if $(MAN_PAGES),install -D -m 644 -t $(DESTDIR)$(MANDIR)/man1 $(MAN_PAGES))
	$(if $(COMPLETION),install -D -m 644 -t $(DESTDIR)$(COMPDIR) $(COMPLETION))

uninstall: ## Remove what install put there
	rm -f $(addprefix $(DESTDIR),$(BINDIR)/imgtool $(LIBEXECDIR)/imgtool-mount $(INCLUDEDIR)/imgtool.h \
	    $(LIBDIR)/libimgtool.a $(addprefix $(LIBDIR)/libimgtool.so,.$(VERSION) .$(SOVERSION)) \
	    $(LIBDIR)/libimgtool.so $(LIBDIR)/pkgconfig/imgtool.pc \
	    $(addprefix $(MANDIR)/man1/,$(notdir $(MAN_PAGES))) \
	    $(if $(COMPLETION),$(COMPDIR)/imgtool))

clean: ## Remove the build directory
	rm -rf $(BUILD)

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' Makefile

.PHONY: install install-files uninstall clean help
