package main

import (
	"bytes"
	"fmt"
	"os"
	"slices"
	"strconv"
	"syscall"

	"github.com/spf13/cobra"

	"github.com/keysidecar/keysidecar/internal/app"
)

func (c *cli) debugCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "debug [PID]",
		Short: "Switch the log of a running sidecar or relay to debug, and back",
		Long: `Sends SIGUSR1 to a sidecar or relay on this machine or in this container: its log is
on level debug from then on, and after the next time on the configured one again.
The process is number 1 unless another is named, as the image's own is in its
container. It is for containers that have no shell and no kill.`,
		Example: `  kubectl exec POD -c keysidecar -- /keysidecar debug
  keysidecar debug 4711`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			pid := 1
			if len(args) == 1 {
				var err error
				if pid, err = strconv.Atoi(args[0]); err != nil || pid < 1 {
					return &usageError{fmt.Errorf("%q is no process id", args[0]), cmd.CommandPath()}
				}
			}
			if err := checkDaemon(pid); err != nil {
				return err
			}
			if err := syscall.Kill(pid, app.LevelSignal); err != nil {
				return fmt.Errorf("signal process %d: %w", pid, err)
			}
			_, err := fmt.Fprintf(c.out, "process %d was told; its log says which level it has now\n", pid)
			return err
		},
	}
}

// checkDaemon makes sure that pid is a sidecar or a relay: the signal ends whatever
// does not expect it.
func checkDaemon(pid int) error {
	proc := fmt.Sprintf("/proc/%d/", pid)
	own, err := os.Stat("/proc/self/exe")
	if err != nil {
		return fmt.Errorf("look at this process: %w", err)
	}
	other, err := os.Stat(proc + "exe")
	if err != nil {
		return fmt.Errorf("look at process %d: %w", pid, err)
	}
	command, err := os.ReadFile(proc + "cmdline")
	if err != nil {
		return fmt.Errorf("look at process %d: %w", pid, err)
	}
	daemon := slices.ContainsFunc(bytes.Split(command, []byte{0}), func(arg []byte) bool { return string(arg) == "serve" || string(arg) == "relay" })
	if !os.SameFile(own, other) || !daemon || pid == os.Getpid() {
		return fmt.Errorf("process %d is no sidecar or relay of this very program: name one that is", pid)
	}
	return nil
}
