"""The script of the page: replaces sections that have changed, and greys out old data.

A section with the focus keeps it on the same link; one in which text is selected is replaced later.
Without a stream, because too many pages follow already, the whole page is fetched now and then; so
it is when nothing comes any more, as through a tunnel that is gone or a proxy that buffers.
"""

from typing import Final

SCRIPT: Final = """
(function(){
var url=document.body.dataset.events,age=document.getElementById('age');
var last=Date.now(),tried=last,later={},stale=false,stream;
var word=document.getElementById('word'),state=word.textContent;
var server=document.title.slice(state.length);
function say(){
var text=stale?'No answer from relayd':state;
if(word.textContent!==text)word.textContent=text;
if(document.title!==text+server)document.title=text+server;}
function selected(place){
var found=window.getSelection();
return !found.isCollapsed&&place.contains(found.anchorNode);}
function put(id,html){
var place=document.getElementById(id),focus=document.activeElement;
if(!place)return;
if(place===word){
place=document.createElement('p');place.innerHTML=html;state=place.textContent;say();return;}
if(selected(place)){later[id]=html;return;}
delete later[id];
if(place.innerHTML===html)return;
var target=place.contains(focus)&&focus.getAttribute('href');
place.innerHTML=html;
if(target===false)return;
var same=[...place.querySelectorAll('a')].find(function(one){
return one.getAttribute('href')===target;});
if(!same){place.tabIndex=-1;same=place;}
same.focus({preventScroll:true});}
function span(seconds){
return seconds<120?seconds+' s':seconds<7200?Math.floor(seconds/60)+' min':
Math.floor(seconds/3600)+' h';}
function follow(){
var source=stream=new EventSource(url+location.search);
source.addEventListener('section',function(event){
var part=JSON.parse(event.data);put(part.id,part.html);});
source.addEventListener('tick',function(){last=Date.now();});
source.onerror=function(){
if(source.readyState===EventSource.CLOSED)setTimeout(function(){if(stream===source)renew();},5000);};}
function renew(){
stream.close();stream=null;tried=Date.now();
fetch(location.href,{signal:AbortSignal.timeout(8000)}).then(function(answer){
if(!answer.ok)throw answer.status;
return answer.text();}).then(function(text){
var fresh=new DOMParser().parseFromString(text,'text/html');
document.querySelectorAll('[data-live]').forEach(function(place){
var part=fresh.getElementById(place.id);if(part)put(place.id,part.innerHTML);});
last=Date.now();}).catch(function(){}).then(follow);}
setInterval(function(){
var now=Date.now(),seconds=Math.max(0,Math.round((now-last)/1000));
stale=seconds>15;
document.body.classList.toggle('stale',stale);say();
age.textContent=stale?'No answer from relayd for '+span(seconds)+': old figures'
:'Live, '+seconds+' s old';
if(stream&&now-Math.max(last,tried)>9000)renew();
Object.keys(later).forEach(function(id){put(id,later[id]);});
},1000);
follow();
})();
"""
