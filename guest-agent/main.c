#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

bool is_init;
struct rlimit child_file_limit;

static void survive_lack_of_memory(void) {
  if (getpid() == 1) return; /* the kernel never chooses the first process */
  int fd = open("/proc/self/oom_score_adj", O_WRONLY | O_CLOEXEC);
  if (fd < 0) return;
  ssize_t ignored = write(fd, "-1000", 5);
  (void)ignored;
  close(fd);
}

static void allow_many_files(void) {
  struct rlimit limit;
  if (getrlimit(RLIMIT_NOFILE, &limit) < 0) return;
  child_file_limit = limit;
  /* The kernel's own limits for its first process are too low for servers; these are systemd's. */
  if (getpid() == 1) child_file_limit = limit = (struct rlimit){1024, 524288};
  struct rlimit more = {65536, limit.rlim_max < 65536 ? 65536 : limit.rlim_max};
  if (setrlimit(RLIMIT_NOFILE, &more) == 0) return;
  more = (struct rlimit){limit.rlim_max, limit.rlim_max};
  setrlimit(RLIMIT_NOFILE, &more);
}

/* So that whatever a fuzzer asks for can only hit a folder made for it. */
static void enter_cage(const char *folder) {
  if (geteuid() != 0) unshare(CLONE_NEWUSER); /* gives the right to chroot, and no other over this host */
  if (chroot(folder) == 0 && chdir("/") == 0) return;
  perror("chroot");
  exit(3);
}

/* Under test on an ordinary host: lanes are inherited sockets, and nothing of the machine is touched. */
static int serve(int argc, char **argv) {
  prctl(PR_SET_CHILD_SUBREAPER, 1);
  loop_start();
  const char *cgroup = NULL, *cage = NULL;
  int lane = 0;
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--cgroup") == 0) cgroup = argv[i + 1];
    if (strcmp(argv[i], "--chroot") == 0) cage = argv[i + 1];
  }
  tree_start(cgroup);
  if (cage) enter_cage(cage);
  for (int i = 1; i + 1 < argc; i += 2) {
    if (strcmp(argv[i], "--serve-fd") != 0 || lane == MAX_LANES) continue;
    int fd = atoi(argv[i + 1]);
    fcntl(fd, F_SETFL, fcntl(fd, F_GETFL) | O_NONBLOCK);
    fcntl(fd, F_SETFD, FD_CLOEXEC);
    lane_attach(lane++, fd);
  }
  if (lane == 0) {
    fprintf(stderr, "usage: smolvm-agent --serve-fd N [--serve-fd N ...] [--cgroup FOLDER] [--chroot FOLDER]\n");
    return 2;
  }
  loop_run();
}

int main(int argc, char **argv) {
  umask(0);
  allow_many_files();
  if (getpid() != 1) return serve(argc, argv);
  is_init = true;
  boot();
  survive_lack_of_memory();
  struct sched_param none = {0};
  sched_setscheduler(0, SCHED_BATCH | SCHED_RESET_ON_FORK, &none);
  loop_run();
}
