# Print an optspec for argparse to handle cmd's options that are independent of any subcommand.
function __fish_berkeleyd_global_optspecs
    string join \n role= domain= bind= interface= group= peer= timestamping= delay-asymmetry= max-slaves= upper-domain= upper-role= upper-bind= upper-interface= upper-group= upper-peer= upper-key-file= clock= inject-offset= inject-drift= inject-lie= interval= min-interval= max-interval= average= weight= gamma= reference= max-slew= step-threshold= allow-step= max-correction= priority= preempt= quorum= node-id= state-dir= key-file= status-socket= user= without= log-level= log-format= config= v/verbose q/quiet h/help V/version
end

function __fish_berkeleyd_needs_command
    # Figure out if the current invocation already has a command.
    set -l cmd (commandline -opc)
    set -e cmd[1]
    argparse -s (__fish_berkeleyd_global_optspecs) -- $cmd 2>/dev/null
    or return
    if set -q argv[1]
        # Also print the command, so this can be used to figure out what it is.
        echo $argv[1]
        return 1
    end
    return 0
end

function __fish_berkeleyd_using_subcommand
    set -l cmd (__fish_berkeleyd_needs_command)
    test -z "$cmd"
    and return 1
    contains -- $cmd[1] $argv
end

complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l role -d 'The part to play: master, slave, or auto (elected) [default: auto]' -r -f -a "master\t''
slave\t''
auto\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l domain -d 'Number of the ensemble; others are not heard [default: 0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l bind -d 'Local address; port 0 picks a free one [default: 0.0.0.0:5525]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l interface -d 'Interface for multicast [default: the system\'s choice]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l group -d 'Multicast group [default: 239.255.5.25:5525 or [ff15::5525]:5525]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l peer -d 'A node to speak to directly, instead of the group; repeatable' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l timestamping -d 'Who stamps: auto, kernel, user, hardware (not built) [default: auto]' -r -f -a "auto\t''
hardware\t''
kernel\t''
user\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l delay-asymmetry -d 'How much longer requests take than responses: DUR or WHO=DUR' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l max-slaves -d 'How many slaves a master takes [default: 16384]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-domain -d 'Its number, below --domain\'s; --bind is then 0.0.0.0:0 by default' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-role -d 'The part to play there: slave or auto [default: auto]' -r -f -a "slave\t''
auto\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-bind -d 'Local address there [default: 0.0.0.0:0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-interface -d 'Interface for multicast there [default: the system\'s choice]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-group -d 'Multicast group there [default: as that of --group]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-peer -d 'A node there to speak to directly; repeatable' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l upper-key-file -d 'Keys of the domain above [default: --key-file]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l clock -d 'virtual (the machine\'s clock is never set) or system [default: virtual]' -r -f -a "virtual\t'One kept in user space: the machine\'s clock is read, never set'
system\t'The machine\'s'"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l inject-offset -d 'Start a virtual clock wrong by this much, such as -1.5s [default: 0s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l inject-drift -d 'Run it fast (+) or slow (-) by this many ppm [default: 0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l inject-lie -d 'Tell the master that the clock is ahead by this much more than it is [default: 0s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l interval -d 'Time between rounds, 62.5ms to 64s [default: 1s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l min-interval -d 'Shortest, while little is known of the clocks [default: 125ms]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l max-interval -d 'Longest, when the clocks need no more [default: --interval]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l average -d 'mean, fault-tolerant, midpoint or weighted [default: fault-tolerant]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l weight -d 'Weight of a node (number or IP); repeatable [default: all 1]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l gamma -d 'How close clocks must be to count as agreeing [default: 20ms]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l reference -d 'It has a time source of its own: only such are averaged [default: false]' -r -f -a "true\t''
false\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l max-slew -d 'The fastest slew, in ppm [default: 500]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l step-threshold -d 'Corrections up to this always slew, but for the first [default: 128ms]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l allow-step -d 'Step above the threshold instead of slewing [default: false]' -r -f -a "true\t''
false\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l max-correction -d 'Refuse larger corrections [default: never the first, later 1000s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l priority -d 'Place in the standby order: higher is preferred [default: 0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l preempt -d 'Take over from a healthy master of a lower priority [default: false]' -r -f -a "true\t''
false\t''"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l quorum -d 'As master correct nobody while fewer nodes are heard [default: 1]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l node-id -d 'Number of this node [default: kept in --state-dir, else drawn]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l state-dir -d 'Where drift and identity survive restarts [default: nowhere]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l key-file -d 'Authenticate every frame with these keys [default: not authenticated]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l status-socket -d 'Where `status` asks [default: in $XDG_RUNTIME_DIR, /run or /tmp]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l user -d 'Run as this user (NAME or UID:GID) [default: who starts it]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l without -d 'Leave out: capabilities, no-new-privs, seccomp [default: none]' -r -f -a "capabilities\t'Capabilities are dropped'
no-new-privs\t'Nothing that is executed gains privileges'
seccomp\t'System calls are filtered'"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l log-level -d 'How much: error, warn, info, debug, trace, or off [default: info]' -r
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l log-format -d 'text, or json: an object a line, for programs [default: text]' -r -f -a "text\t'For people'
json\t'For programs: an object a line'"
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -l config -d 'Read settings from a TOML file; the command line wins' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -s v -l verbose -d 'Log more: -v every round, -vv every frame'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -s q -l quiet -d 'Log less: -q warnings, -qq errors, -qqq nothing'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -s V -l version -d 'Print the version'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "status" -d 'Show what a running node knows, or wait until it is synchronised'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "exporter" -d 'Prometheus metrics of running nodes, and a dashboard page'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "watch" -d 'Show a running node live: offsets over time, its slaves, what happens'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "demo" -d 'Run a whole ensemble on loopback and show how it agrees'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "simulate" -d 'Simulate an ensemble, and measure how well it agrees'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "check-config" -d 'Look for mistakes in a configuration file: exit 0, or 2 and one line an error'
complete -c berkeleyd -n "__fish_berkeleyd_needs_command" -f -a "keygen" -d 'Print a key file with a fresh key'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand status" -l socket -d 'The node\'s socket [default: in $XDG_RUNTIME_DIR, /run or /tmp]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand status" -l wait-sync -d 'Show nothing: wait until it is synchronised, within MAX_BOUND' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand status" -l timeout -d 'Wait no longer than this, then exit with 1 [default: for ever]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand status" -l json -d 'One JSON object instead of text; times are integers in ns'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand status" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand exporter" -l listen -d 'Serve /metrics and the page here; whoever reaches it can read them' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand exporter" -l socket -d 'A node\'s socket; repeatable [default: in $XDG_RUNTIME_DIR, /run or /tmp]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand exporter" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand watch" -l socket -d 'The node\'s socket [default: in $XDG_RUNTIME_DIR, /run or /tmp]' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand watch" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand demo" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l scenario -d 'What is simulated, see scenarios/*.toml; other options override it' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l nodes -d 'How many nodes there are; the first is the master [default: 8]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l tiers -d 'Tiers of ensembles: how many nodes the topmost has, how many each of those leads, and so on, as in 100x100x100' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l liars -d 'How many of them lie, the last ones [default: 0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l average -d 'mean, fault-tolerant, midpoint or weighted [default: fault-tolerant]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l interval -d 'Time between rounds [default: 1s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l offset -d 'Clocks start wrong by up to this much [default: 2s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l drift -d 'Oscillators run wrong by up to this much, in ppm [default: 50]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l wander -d 'And change at random by this much in a second, in ppb [default: 1]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l delay -d 'The least that a datagram takes one way [default: 50us]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l jitter -d 'Mean of what comes on top [default: 10us]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l loss -d 'Fraction of the datagrams that are lost [default: 0]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l duration -d 'How long a run lasts, in true time [default: 60s]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l seed -d 'What everything random is drawn from [default: 1]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l seeds -d 'Make N runs, with this seed and those after it, in parallel' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l settle-below -d 'Settled is what has a smaller true spread, and keeps it [default: 1ms]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l plot -d 'Draw every clock over time, into a file named .svg or .png' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l csv -d 'Write every clock over time: time_ns,node,error_ns,bound_ns,standing' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l compare-averages -d 'Compare the averages, without liars and with several kinds of them, over 20 seeds or N'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l json -d 'One JSON object instead of text; times are integers'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l trace -d 'Show the events that led to a violation'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -l check -d 'Exit with 1 when the scenario\'s limits are missed or an invariant is violated'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand simulate" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand check-config" -s h -l help -d 'Print this help'
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand keygen" -l id -d 'Its number, from 1 [default: 1, or one above those in FILE]' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand keygen" -l add -d 'Print the keys of this file first, which are then preferred' -r -F
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand keygen" -l send-from -d 'Prefer it from then on, such as 2027-01-01T00:00:00Z' -r
complete -c berkeleyd -n "__fish_berkeleyd_using_subcommand keygen" -s h -l help -d 'Print this help'
