#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/sched.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

#ifdef __SANITIZE_ADDRESS__
#include <sanitizer/asan_interface.h>
/* The last child left this stack without returning from its functions, so their marks on it are still there. */
#define CLEAN_STACK(stack) __asan_unpoison_memory_region(stack, STACK_SIZE)
#else
#define CLEAN_STACK(stack) (void)0
#endif

#ifndef CLONE_INTO_CGROUP
#define CLONE_INTO_CGROUP 0x200000000ULL
#endif

/*
 * The child runs in the agent's own memory (CLONE_VM) on a stack of its own while the agent waits (CLONE_VFORK) until it has
 * called exec. Nothing is copied, so starting a command is quick and can't fail for lack of memory; and the child may only
 * make system calls and write to `struct spawn`.
 */
enum { STACK_SIZE = 128 * 1024 };

struct clone_request { /* struct clone_args of <linux/sched.h>, as of Linux 5.7 */
  uint64_t flags, pidfd, child_tid, parent_tid, exit_signal, stack, stack_size, tls, set_tid, set_tid_size, cgroup;
};

static int fail(struct spawn *s, const char *stage) {
  s->error = errno;
  s->stage = stage;
  return 127;
}

/* Handlers go with exec by themselves; what is ignored or blocked would stay. */
static void reset_signals(void) {
  signal(SIGPIPE, SIG_DFL);
  sigset_t none;
  sigemptyset(&none);
  sigprocmask(SIG_SETMASK, &none, NULL);
}

static int arrange_fds(const struct spawn *s) {
  /* Each is ≥ 3 (the agent's own 0 to 2 are always open), so no dup2 overwrites one that is still needed. */
  for (int i = 0; i < 3; i++) {
    if (dup2(s->fds[i], i) < 0) return -1;
  }
  return s->tty ? ioctl(0, TIOCSCTTY, 0) : 0;
}

static int become(const struct user *user) {
  if (user->uid == geteuid() && user->gid == getegid() && user->uid != 0) return 0; /* an unprivileged agent under test */
  if (setgroups((size_t)user->group_count, user->groups) < 0 && geteuid() == 0) return -1;
  if (setresgid(user->gid, user->gid, user->gid) < 0) return -1;
  return setresuid(user->uid, user->uid, user->uid);
}

/* An agent beside the image's init must survive lack of memory; what it starts need not. */
static void reset_oom_score(void) {
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t ignored = write(fd, "0", 1);
  (void)ignored;
  close(fd);
}

/* A folder's or a missing program's error does not end the search, a program that may not be run is remembered. */
static void search(const struct spawn *s) {
  const char *name = s->argv[0];
  if (strchr(name, '/')) {
    execve(name, (char *const *)s->argv, (char *const *)s->envp);
    return;
  }
  int found = ENOENT;
  char path[4096];
  for (const char *at = s->path; *name; at++) {
    size_t length = strcspn(at, ":");
    int printed = snprintf(path, sizeof path, "%.*s/%s", (int)length, length ? at : ".", name);
    if (printed > 0 && (size_t)printed < sizeof path) {
      /* A look costs a tenth of an exec that fails. */
      if (access(path, X_OK) == 0) execve(path, (char *const *)s->argv, (char *const *)s->envp);
      if (errno == EACCES) found = EACCES;
      if (errno != EACCES && errno != ENOENT && errno != ENOTDIR) return;
    }
    at += length;
    if (!*at) break;
  }
  errno = found;
}

static int child(void *context) {
  struct spawn *s = context;
  reset_signals();
  setsid();
  umask(022);
  setrlimit(RLIMIT_NOFILE, &child_file_limit);
  if (getppid() != 1) reset_oom_score(); /* the kernel spares the first process by itself, so it has nothing to reset */
  if (arrange_fds(s) < 0) return fail(s, "descriptors");
  if (become(s->user) < 0) return fail(s, "user");
  if (s->cwd) {
    if (chdir(s->cwd) < 0) return fail(s, "cwd");
  } else if (chdir(s->user->home) < 0 && chdir("/") < 0) {
    return fail(s, "cwd");
  }
  search(s);
  return fail(s, "exec");
}

static void child_entry(void *context) {
  _exit(child(context));
}

/* clone3 for a child with a stack of its own; glibc has no wrapper for it. The child never returns from here. */
static long clone_into(struct clone_request *request, void (*entry)(void *), void *context) {
#if defined(__x86_64__)
  register long result __asm__("rax") = SYS_clone3;
  register void *first __asm__("rdi") = request;
  register long second __asm__("rsi") = sizeof *request;
  register void (*function)(void *) __asm__("r12") = entry;
  register void *argument __asm__("r13") = context;
  __asm__ volatile("syscall\n\t"
                   "test %%rax, %%rax\n\t"
                   "jnz 1f\n\t"
                   "xor %%ebp, %%ebp\n\t"
                   "mov %%r13, %%rdi\n\t"
                   "call *%%r12\n\t"
                   "hlt\n"
                   "1:"
                   : "+r"(result)
                   : "r"(first), "r"(second), "r"(function), "r"(argument)
                   : "rcx", "r11", "memory", "cc");
  return result;
#elif defined(__aarch64__)
  register long result __asm__("x0") = (long)request;
  register long second __asm__("x1") = sizeof *request;
  register long number __asm__("x8") = SYS_clone3;
  register void (*function)(void *) __asm__("x20") = entry;
  register void *argument __asm__("x21") = context;
  __asm__ volatile("svc #0\n\t"
                   "cbnz x0, 1f\n\t"
                   "mov x29, #0\n\t"
                   "mov x0, x21\n\t"
                   "blr x20\n\t"
                   "brk #1\n"
                   "1:"
                   : "+r"(result)
                   : "r"(second), "r"(number), "r"(function), "r"(argument)
                   : "memory", "cc");
  return result;
#else
#error "no clone3 for this architecture"
#endif
}

static int join_and_run(void *context) {
  struct spawn *s = context;
  if (s->cgroup >= 0) {
    int fd = openat(s->cgroup, "cgroup.procs", O_WRONLY | O_CLOEXEC);
    if (fd < 0 || write(fd, "0", 1) < 0) _exit(fail(s, "cgroup"));
    close(fd);
  }
  _exit(child(context));
}

pid_t spawn(struct spawn *s) {
  static char *stack;
  if (!stack) {
    stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
    if (stack == MAP_FAILED) {
      stack = NULL;
      fail(s, "memory");
      return -1;
    }
  }
  s->error = 0;
  CLEAN_STACK(stack);
  sigset_t all, before;
  sigfillset(&all);
  sigprocmask(SIG_SETMASK, &all, &before); /* no handler may run in the child while it shares this memory */
  long pid = -1;
  errno = ENOSYS;
  if (s->cgroup >= 0) {
    struct clone_request request = {
        .flags = CLONE_VM | CLONE_VFORK | CLONE_INTO_CGROUP,
        .exit_signal = SIGCHLD,
        .stack = (uint64_t)(uintptr_t)stack,
        .stack_size = STACK_SIZE,
        .cgroup = (uint64_t)s->cgroup,
    };
    pid = clone_into(&request, child_entry, s);
    if (pid < 0) errno = (int)-pid;
  }
  /* Before Linux 5.7, or without cgroups. */
  if (pid < 0 && (errno == ENOSYS || errno == EINVAL || errno == E2BIG)) {
    pid = clone(join_and_run, stack + STACK_SIZE, CLONE_VM | CLONE_VFORK | SIGCHLD, s);
  }
  if (pid < 0) fail(s, "fork");
  sigprocmask(SIG_SETMASK, &before, NULL);
  if (pid > 0 && s->error) {
    while (waitpid((pid_t)pid, NULL, 0) < 0 && errno == EINTR) {
    }
    pid = -1;
  }
  return (pid_t)pid;
}
