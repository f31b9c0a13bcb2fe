#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static int epoll_fd = -1;
static int signal_fd = -1;
static struct watch signal_watch;

int64_t now_ms(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static void on_signal(struct watch *watch, uint32_t events) {
  (void)watch, (void)events;
  struct signalfd_siginfo info[8];
  for (ssize_t n; (n = read(signal_fd, info, sizeof info)) > 0;) {
    for (size_t i = 0; i < (size_t)n / sizeof *info; i++) {
      if (info[i].ssi_signo != SIGCHLD) power_off();
    }
  }
  tasks_reap();
}

bool loop_add(int fd, uint32_t events, struct watch *watch) {
  struct epoll_event event = {.events = events | EPOLLET, .data.ptr = watch};
  return epoll_ctl(epoll_fd, EPOLL_CTL_ADD, fd, &event) == 0;
}

/* A child that has not closed its copy yet would keep a merely closed descriptor alive in the epoll set: remove it by hand. */
void loop_close(int fd) {
  if (fd < 0) return;
  epoll_ctl(epoll_fd, EPOLL_CTL_DEL, fd, NULL);
  close(fd);
}

/* What `poweroff`, `halt` and `reboot` of busybox, sysvinit and systemd tell the first process. A machine only ever stops. */
static void add_stop_signals(sigset_t *set) {
  const int stop[] = {SIGUSR1, SIGUSR2, SIGTERM, SIGINT, SIGPWR, SIGRTMIN + 3, SIGRTMIN + 4, SIGRTMIN + 5};
  for (size_t i = 0; i < sizeof stop / sizeof *stop; i++) sigaddset(set, stop[i]);
}

void loop_start(void) {
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  if (getpid() == 1) add_stop_signals(&set);
  sigprocmask(SIG_BLOCK, &set, NULL);
  signal(SIGPIPE, SIG_IGN);
  epoll_fd = epoll_create1(EPOLL_CLOEXEC);
  signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  signal_watch.on_event = on_signal;
  if (epoll_fd < 0 || signal_fd < 0 || !loop_add(signal_fd, EPOLLIN, &signal_watch)) {
    say("no event loop (errno %d)", errno);
    exit(1);
  }
}

/* Of two times to wait, where a negative one is for ever. */
static int sooner(int a, int b) { return a < 0 ? b : b < 0 ? a : a < b ? a : b; }

/*
 * Everything is edge-triggered: an event only notes that a descriptor is ready, and the pump then moves what credits and
 * buffers allow. So a stream that may not move costs nothing, and no lane waits for another.
 */
void loop_run(void) {
  for (;;) {
    lanes_pump();
    struct epoll_event events[64];
    int count = epoll_wait(epoll_fd, events, 64, lanes_busy() ? 0 : sooner(tasks_timeout(), lanes_timeout()));
    if (count < 0 && errno != EINTR) {
      say("epoll failed (errno %d)", errno);
      exit(1);
    }
    for (int i = 0; i < count; i++) {
      struct watch *watch = events[i].data.ptr;
      watch->on_event(watch, events[i].events);
    }
  }
}
