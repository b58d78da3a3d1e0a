# 0: removal, not upgrade.
if [ "$1" -eq 0 ] && [ -d /run/systemd/system ]; then
    systemctl disable --now manyhands.socket manyhands-volunteer.socket manyhands-serve.service manyhands-volunteer.service
fi
