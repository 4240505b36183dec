"""What schedulers.py records, a module for each file of recordings.

Each module but common.py has

    NAMES        short names of its schedulers in C++ -> classes of diffusers
    CLASSES      class names -> classes that diffusers doesn't have, behind its interface; where there are any
    SETTINGS     short names -> the settings that they stand for, whatever the configuration has; where there are any
    cases()      whole trajectories: case(name, class, config, steps, further options)
    timesteps()  (class, config) to record the timesteps of every number of steps for
    add_noise()  (class, config, steps or None, timesteps) to add noise with, None without set_timesteps
"""
