/*
 * What starting a program costs by itself, for a caller that waits between two starts as one does that is asked over a channel:
 * a guest that was idle is slower than one that starts programs in a tight loop.
 *
 *   spawn-loop fork|vfork|whole COUNT PROGRAM    prints microseconds, one line for each start
 *
 * "whole" is vfork and what every runner of commands has to do besides: two pipes for the output and their ends, a session, a
 * cgroup, and a loop that learns of the end by epoll.
 */
#define _GNU_SOURCE
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { PAUSE_US = 2000 };

static int whole, events, signals, cgroup;

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec * 1e6 + (double)t.tv_nsec / 1e3;
}

static void watch(int fd) {
  struct epoll_event event = {.events = EPOLLIN, .data.fd = fd};
  epoll_ctl(events, EPOLL_CTL_ADD, fd, &event);
}

static void prepare(void) {
  const char *folder = "/sys/fs/cgroup/spawn-loop";
  char path[64];
  mkdir(folder, 0755);
  snprintf(path, sizeof path, "%s/cgroup.procs", folder);
  cgroup = open(path, O_WRONLY | O_CLOEXEC);
  sigset_t set;
  sigemptyset(&set);
  sigaddset(&set, SIGCHLD);
  sigprocmask(SIG_BLOCK, &set, NULL);
  events = epoll_create1(EPOLL_CLOEXEC);
  signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
  if (cgroup < 0 || events < 0 || signals < 0) exit(1);
  watch(signals);
}

/* Until both pipes have ended and the program has. */
static int follow(pid_t pid, int left) {
  int status = -1;
  char bytes[4096];
  while (left > 0) {
    struct epoll_event event;
    if (epoll_wait(events, &event, 1, -1) != 1) continue;
    int fd = event.data.fd;
    if (fd == signals) {
      struct signalfd_siginfo info;
      while (read(signals, &info, sizeof info) > 0) {
      }
      if (waitpid(pid, &status, WNOHANG) == pid) left--;
    } else if (read(fd, bytes, sizeof bytes) <= 0) {
      close(fd);
      left--;
    }
  }
  return status;
}

static int start(const char *how, char *program) {
  int output[2][2] = {{-1, -1}, {-1, -1}};
  char *arguments[] = {program, NULL};
  for (int i = 0; whole && i < 2; i++) {
    if (pipe2(output[i], O_CLOEXEC) < 0) return -1;
  }
  pid_t pid = strcmp(how, "fork") == 0 ? fork() : vfork();
  if (pid == 0) {
    if (whole) {
      setsid();
      if (write(cgroup, "0", 1) < 0 || dup2(output[0][1], 1) < 0 || dup2(output[1][1], 2) < 0) _exit(126);
    }
    execv(program, arguments);
    _exit(127);
  }
  if (pid < 0) return -1;
  if (!whole) {
    int status;
    return waitpid(pid, &status, 0) < 0 ? -1 : status;
  }
  for (int i = 0; i < 2; i++) {
    close(output[i][1]);
    watch(output[i][0]);
  }
  return follow(pid, 3);
}

int main(int argc, char **argv) {
  if (argc != 4) return 2;
  whole = strcmp(argv[1], "whole") == 0;
  if (whole) prepare();
  for (int left = atoi(argv[2]); left > 0; left--) {
    usleep(PAUSE_US);
    double began = now();
    if (start(argv[1], argv[3]) != 0) return 1;
    printf("%.0f\n", now() - began);
  }
  return 0;
}
