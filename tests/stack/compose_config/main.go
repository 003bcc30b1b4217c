// Loads compose files as `docker compose config` does: schema, interpolation, profiles, merging, references between
// services, networks and volumes. Prints the project as JSON; ends with 1 and the reason when something is wrong.
//
//	compose-config -profile dev compose.yaml [overlay.yaml …]     variables come from the environment
package main

import (
	"context"
	"flag"
	"fmt"
	"os"

	"github.com/compose-spec/compose-go/v2/cli"
)

func main() {
	profile := flag.String("profile", "", "the profile to activate")
	flag.Parse()
	options, err := cli.NewProjectOptions(flag.Args(), cli.WithOsEnv, cli.WithDefaultProfiles(*profile), cli.WithName("assay"))
	if err == nil {
		project, loading := options.LoadProject(context.Background())
		if err = loading; err == nil {
			var text []byte
			if text, err = project.MarshalJSON(); err == nil {
				fmt.Println(string(text))
				return
			}
		}
	}
	fmt.Fprintln(os.Stderr, err)
	os.Exit(1)
}
